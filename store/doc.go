// Package store keeps what one agent must not forget: a journal, documents and
// a floor, in one data folder that one agent at a time may open.
//
//	DIR/lock        held (flock) while the store is open; contains the holder's pid
//	DIR/floor.json  the floor and the journal's end, one checksummed line
//	DIR/db/         Badger: journal, documents and a copy of the floor
//	DIR/ballast     room to open the database where the disk is full
//	DIR/quarantine/ databases that were found damaged, at most two
//
// # Guarantees
//
//   - What a call that returned nil has written survives kill -9 and power loss.
//   - An Update is applied wholly or not at all.
//   - The journal is a hash chain. Reading it verifies it; an entry cannot be
//     changed, dropped from the middle or cut from the end without being found.
//   - The floor never goes down, also when the database is lost.
//   - Damage is found by Open (and by Journal and Check), never passed over: the
//     database is put into quarantine, a fresh one continues the chain where the
//     floor file says that it ended, and Damage tells it, so that the agent can
//     heal from its peers.
//
// # Why two places
//
// Badger cuts off a damaged tail of its write-ahead log without a word, and
// drops tables that its manifest does not name. So each write transaction also
// carries a mark (a count of all transactions, the floor, the journal's first
// and last entry), and once the transaction is durable the same mark replaces
// floor.json. The database may thus be one transaction ahead of the file, when
// the agent died between the two, but never behind: one that is behind has lost
// something. Either copy of the mark is enough to go on; Open takes the
// greater. Where only the database's is left, nothing confirms that it is the last one:
// Damage says so.
//
// Documents are for what peers can give back or what can be written again (trust
// metadata, the view, known peers). A record of what was decided belongs into the
// journal; a promise that must hold for ever belongs into the floor.
package store
