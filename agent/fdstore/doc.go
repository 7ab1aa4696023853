// Package fdstore keeps listening sockets open while one agent gives way to the next, so that
// callers who come meanwhile wait in the kernel and are not refused.
//
// A [Store] has a copy of each socket that it was told to keep. There are two ways on which a
// socket goes over:
//
//   - a service manager that has started the agent is given the copy, and gives it to the next
//     agent when it restarts the unit, whatever the first one ended by (sd_notify(3), FDSTORE=1;
//     sd_listen_fds(3));
//   - an agent that starts its successor, or executes it in its own place, passes the copies on
//     by [Store.Pass] and [Store.Exec].
//
// Who takes nothing of what was passed on says so by [Store.Done]: a socket that nobody accepts
// from would have its callers wait for ever.
package fdstore
