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

example "a method with its old name" {
  request "POST /kv.v3.Entries/Write" {
    body = "any bytes"
  }
  next "POST /kv.v1.Store/Set" {
    body = "any bytes"
    answer "200" {}
  }
  response "200" {}
}

example "what version 2 does not say" {
  request "POST /kv.v3.Entries/Remove" {}
  denied {
    reason = "this node runs version 2, which does not say what it removed: Remove has to wait until it is upgraded"
  }
}

example "what version 2 cannot do" {
  request "POST /kv.v3.Entries/Swap" {}
  denied {
    reason = "this node runs version 2, which cannot compare and write in one step: Swap has to wait until it is upgraded"
  }
}

example "what nobody can do" {
  request "POST /kv.v3.Entries/Fly" {}
  denied {
    reason = "version 3 has no such method"
  }
}
