// Package selfupdate replaces an agent by another build of itself, and puts it back where
// that one is no good. The node's software goes on all the while: it is adopted by each
// agent in turn, as after any end of an agent.
//
// # What is kept
//
// The folder agent of the data folder has
//
//	lock          held (flock) by the agent's first process
//	state.json    which build runs from the next start on, which is on trial, which have failed
//	HEX/moult     a build, HEX being the digest of the file
//	before/       the store's metadata as they were before the trial under way
//
// The program that the operator or the service manager starts is the packaged one. It runs
// itself as long as state.json confirms no other build, and else becomes that build
// (execve: the same process, arguments and environment).
//
// state.json is one line, {"format":1,"state":{…},"sum":"sha256:…"}. The sum covers format
// and state; a file of a newer format is refused by its number and left as it is. Fields are
// only added, and each new one has a new format, which is written only where it is set.
// Where the file cannot be read, the packaged program runs, and says so.
//
// # Which build runs
//
//   - A confirmed build, where the packaged program is the one that it has superseded. Is that
//     another by now, a package was installed since, and wins: the confirmed build is dropped.
//   - One that has ended [MaxStarts] times in a row before it was up is given up.
//   - One whose file is not what its digest says is given up.
//
// # A trial
//
// [Folder.Begin] writes down which build is on trial. The agent then ends in good order, and
// its process, which keeps its number, becomes the parent of the candidate ([Trial.Run]): it
// keeps no store open, passes signals on, and speaks for both to the service manager. It asks
// the candidate what an agent is asked anyway. A candidate is well when it has answered
// several times in a row as the node that it was, not behind what that knew, and with peers
// where there were peers. Then it is asked to end, and what it has left is read by the old
// build: the journal must go on from where it was, and no floor may be lower. Only then it is
// confirmed, and takes the process over.
//
// In any other case it is killed, alone, and the old build goes on. What a bad one has made of
// the store is put back from the copy only where the old build cannot read it, or where it does
// not go on from what was there. Nothing that the node has said is taken back by that: the
// floor stays at the highest that can be read of either, and the node says and starts nothing
// before a peer has told it what it has said (as with a floor that was lost, see package store).
package selfupdate
