package transforms

import (
	"errors"
	"moult/agent/account/sandbox"
	"os"
	"path/filepath"
)

// sandbox is what the program is held to, with its folder for temporary files, which it
// makes; both nothing where it is held to none. s and mount are as for program.
func (j Job) sandbox(s shown, mount bool) (box *sandbox.Sandbox, scratch string, err error) {
	if j.Sandbox == nil {
		return nil, "", nil
	}
	scratch = filepath.Join(filepath.Dir(j.New), oldPrefix+"tmp-"+slotName(j.To))
	if err := removeTree(scratch); err != nil {
		return nil, "", err
	}
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return nil, "", err
	}
	if err := j.Account.Give(scratch); err != nil {
		return nil, "", errors.Join(err, os.Remove(scratch))
	}
	read, write := []string{j.Dir, j.Bounds.Program()}, append(j.made(), scratch)
	for _, dir := range j.given() {
		if mount || s[dir] == "" && !j.Live {
			read = append(read, dir)
		} else {
			write = append(write, s.of(dir)) // a copy; or the state itself, which who copies it may have to lock
		}
	}
	box = j.Sandbox.Of(read, write)
	if j.Live { // who copies it may have to tell the software that runs
		box = box.Signalling()
	}
	return box, scratch, nil
}
