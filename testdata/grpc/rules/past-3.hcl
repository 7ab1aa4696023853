# Callers of version 2, answered by a node of version 3.
#
# Version 3 renamed the service and its methods; the messages are the same bytes,
# so they go on unread. Delete answers no field, and Remove one: protobuf passes
# over a field that the caller does not expect, so the answer may stay as it is.

call "POST /kv.v1.Store/Get" {
  next "POST /kv.v3.Entries/Read" {}
}

call "POST /kv.v1.Store/Set" {
  next "POST /kv.v3.Entries/Write" {}
}

call "POST /kv.v1.Store/List" {
  next "POST /kv.v3.Entries/List" {}
}

call "POST /kv.v1.Store/Delete" {
  next "POST /kv.v3.Entries/Remove" {}
}

# It could be made of List and Remove, but not at one instant: what somebody else
# writes meanwhile would be lost or kept by chance.
call "POST /kv.v1.Store/Clear" {
  deny {
    reason = "this node runs version 3, which cannot remove all keys in one step: delete them one by one"
  }
}

default {
  deny {
    reason = "version 2 has no such method"
  }
}

example "a method with another name, its message unread" {
  request "POST /kv.v1.Store/Get" {
    headers = { content-type = "application/grpc" }
    body    = "any bytes"
  }
  next "POST /kv.v3.Entries/Read" {
    headers = { content-type = "application/grpc" }
    body    = "any bytes"
    answer "200" {
      body = "other bytes"
    }
  }
  response "200" {
    body = "other bytes"
  }
}

example "what cannot be done in one step" {
  request "POST /kv.v1.Store/Clear" {}
  denied {
    reason = "this node runs version 3, which cannot remove all keys in one step: delete them one by one"
  }
}
