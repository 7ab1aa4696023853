// Package process looks after the node software: it starts it, tells whether
// it is ready and healthy, keeps its output, stops it, and takes it over from
// an agent that has died.
//
// # What is promised
//
//   - The agent's death stops no node (promise P12 of the design). The software
//     has a session of its own, no signal is tied to its parent, and its output
//     goes straight to a file, so that no pipe breaks.
//   - A process is never taken for another. A Handle names one by its number,
//     its start time and the machine's boot, so neither a number used again
//     nor a restart of the machine misleads Adopt. On Linux all signals go by
//     pidfd, which cannot be reused.
//   - The agent knows of what it started. Start gives the Handle to
//     Spec.OnStart right after the fork, before anything else. An agent that is
//     killed in between leaves a process that the next agent does not know:
//     FindOrphans finds it and Start stops it, since it carries
//     MOULT_NODE=<Spec.Marker> in its environment. (Software that overwrites
//     its own environment in memory, to change its title, escapes this.)
//   - When Done is closed, the software's whole session has ended. A child that
//     it left behind cannot hold the port or the state folder of what is
//     started next. A child that made a session of its own escapes this.
//
// The software must stay in the foreground: when its first process ends, it
// has ended.
//
// # Readiness and health
//
// The release says how to ask (bundle.Health): an HTTP GET that answers 2xx, a TCP
// connection that the software itself accepts (where the kernel tells, which Linux
// does), a program that exits 0, or READY=1 sent to
// the socket that NOTIFY_SOCKET names, in the manner of sd_notify(3). AwaitReady
// waits for the first success; AwaitHealthy watches for a time and fails when
// the process ends or failuresMax checks in a row fail; Watch goes on asking for as long
// as the software runs, and tells when the answer changes. With sd_notify, who is
// ready stays healthy as long as it runs; that READY=1 came is kept in a file
// beside the socket, for the next agent.
//
// # Inherited sockets
//
// Spec.Sockets are passed in the manner of systemd's socket activation
// (sd_listen_fds(3)): descriptors from 3 on, LISTEN_FDS their number,
// LISTEN_FDNAMES their names with colons between, and LISTEN_PID the process ID
// of the software. Since nobody knows that before it runs, /bin/sh sets it and
// then becomes the software. Spec.Held are descriptors behind these, which are not
// announced: what they stand for lives as long as the software does, for the next
// agent to take back.
//
// # Output
//
// Standard output and error are appended to Spec.LogPath. When it outgrows its
// bound it is copied to LogPath.1 (and that was moved to LogPath.2, and so on)
// and truncated, since the software holds it open. What the software writes
// between the last read and the truncation, some microseconds, is lost: it may
// end the old file in the middle of a line.
//
// Processes are watched by pidfd on Linux (5.10 or newer). Elsewhere an adopted
// process is asked for from time to time, and only on Linux and macOS can one
// be adopted.
package process
