package store

import "fmt"

// What was found of the floor file and of the database.
type fileState int

const (
	fileMissing fileState = iota
	fileGood
	fileDamaged
)

type dbState int

const (
	dbMissing dbState = iota // no database, or one without any transaction
	dbGood                   // it opens, and its own mark and journal agree
	dbDamaged
)

// found is all that recovery decides upon.
type found struct {
	File     fileState
	FileMark mark
	FileErr  error // why the file is damaged
	DB       dbState
	DBMark   mark
	DBErr    error // why the database is damaged
}

// plan is what recovery decides.
type plan struct {
	// Refuse is why the store must not be opened; the rest is then unset.
	Refuse error
	// Fresh: begin with an empty database, after quarantine of the present
	// one where there is one.
	Fresh bool
	// Damage is what is to be reported; empty when nothing can have been lost.
	Damage string
	// Warn is what is to be logged.
	Warn string
	// Mark is what to go on with. It is to be written to both places where it
	// is not there already.
	Mark mark
}

// recoverFrom decides how to go on. It is pure. trustDatabase plants the bug
// that the floor file exists to prevent.
func recoverFrom(f found, trustDatabase bool) plan {
	switch f.DB {
	case dbGood:
		return withDatabase(f, trustDatabase)
	case dbMissing:
		return withoutDatabase(f, "the database is missing or empty")
	default:
		return withoutDatabase(f, "the database is damaged: "+f.DBErr.Error())
	}
}

func withDatabase(f found, trustDatabase bool) plan {
	switch {
	case f.File == fileMissing && f.DBMark.Commits <= 1:
		return plan{Mark: f.DBMark} // a crash before the first floor file
	case f.File == fileMissing:
		return plan{Mark: f.DBMark, Damage: "the floor file is missing" + unconfirmed}
	case f.File == fileDamaged:
		return plan{Mark: f.DBMark, Damage: "the floor file is damaged: " + f.FileErr.Error() + unconfirmed}
	case trustDatabase:
		return plan{Mark: f.DBMark}
	}
	file, db := f.FileMark, f.DBMark
	joined := joinMarks(file, db)
	switch {
	case db.Commits < file.Commits:
		return plan{Fresh: true, Mark: file, Damage: fmt.Sprintf(
			"the database was shortened: it ends at write %d and journal entry %d, but write %d and journal entry %d were made",
			db.Commits, db.Floor.JournalSeq, file.Commits, file.Floor.JournalSeq)}
	case db.Commits == file.Commits && db != file,
		db.Floor.JournalSeq == file.Floor.JournalSeq && db.Floor.JournalHash != file.Floor.JournalHash,
		db.Floor != joined.Floor: // in something the file is above a newer database
		return plan{Fresh: true, Mark: joined, Damage: "the database is another one than the floor file belongs to"}
	case db.Commits > file.Commits+1:
		return plan{Mark: db, Warn: fmt.Sprintf(
			"the floor file is %d writes older than the database: restored from the database", db.Commits-file.Commits)}
	default:
		return plan{Mark: db}
	}
}

// unconfirmed says what it means that the database alone tells where it ends: Badger
// cuts off a damaged tail of its log without a word.
const unconfirmed = "; the database alone tells what was written last, and may have lost it"

// withoutDatabase goes on from the floor file alone.
func withoutDatabase(f found, what string) plan {
	switch {
	case f.File == fileGood && f.FileMark.Commits == 0 && f.DB == dbMissing:
		return plan{Fresh: true, Mark: f.FileMark}
	case f.File == fileGood:
		return plan{Fresh: true, Mark: f.FileMark, Damage: what}
	case f.File == fileMissing && f.DB == dbMissing:
		return plan{Fresh: true} // a new data folder
	}
	file := "is missing"
	if f.File == fileDamaged {
		file = "is damaged (" + f.FileErr.Error() + ")"
	}
	return plan{Refuse: fmt.Errorf("the floor file %s and %s: what this peer must not go back below is unknown; "+
		"restore floor.json from a backup, or, to let this peer join anew, move the whole folder away: %w", file, what, ErrDamaged)}
}
