# Callers of version 3, answered by a node that still runs version 2.

call "POST /kv.v3.Entries/Read" {
  next "POST /kv.v1.Store/Get" {}
}

call "POST /kv.v3.Entries/Write" {
  next "POST /kv.v1.Store/Set" {}
}

call "POST /kv.v3.Entries/List" {
  next "POST /kv.v1.Store/List" {}
}

# Version 2 does not say what it deleted, and reading it before would be a race.
call "POST /kv.v3.Entries/Remove" {
  deny {
    reason = "this node runs version 2, which does not say what it removed: Remove has to wait until it is upgraded"
  }
}

call "POST /kv.v3.Entries/Swap" {
  deny {
    reason = "this node runs version 2, which cannot compare and write in one step: Swap has to wait until it is upgraded"
  }
}

default {
  deny {
    reason = "version 3 has no such method"
  }
}
