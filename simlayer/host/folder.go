package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// socketFolder makes the private folder of the sockets of a Host that belongs to
// dir, empty. Its path is short, since those of unix sockets are bounded to about
// a hundred bytes, and the same each time, so that what a killed agent leaves
// behind is found again.
func socketFolder(dir string) (string, error) {
	paths, err := socketFolders(dir)
	errs := []error{err}
	for _, path := range paths {
		if len(path)+longestSocket > maxSocketPath {
			errs = append(errs, fmt.Errorf("%s is too long a path", path))
			continue
		}
		if err := makePrivate(path); err != nil {
			errs = append(errs, err)
			continue
		}
		return path, nil
	}
	return "", fmt.Errorf("no folder for the object host's sockets: %w; set TMPDIR to a short path that can be written to", errors.Join(errs...))
}

// socketFolders are the paths that the folder may have, the best first.
func socketFolders(dir string) (paths []string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("folder of the object host's sockets: %w", err)
	}
	sum := sha256.Sum256([]byte(abs))
	name := fmt.Sprintf("moult-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6]))
	for _, base := range []string{"/run", os.TempDir(), "/tmp"} {
		paths = append(paths, filepath.Join(base, name))
	}
	return paths, nil
}

// RemoveSockets removes the folder of the sockets of a Host of dir that was killed, where there
// is one. Nobody may have a Host of dir meanwhile.
func RemoveSockets(dir string) error {
	paths, err := socketFolders(dir)
	for _, path := range paths {
		if _, statErr := os.Lstat(path); errors.Is(statErr, fs.ErrNotExist) {
			continue
		}
		if makePrivate(path) == nil { // else it is somebody else's
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// longestSocket is the length of "/18446744073709551615-service.sock".
const longestSocket = 1 + 20 + 1 + 32 + 5

// makePrivate makes path an empty folder that is this user's alone.
func makePrivate(path string) error {
	err := os.Mkdir(path, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Others may have made it, in /tmp: then it is not used.
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !isOwn(info) || !info.IsDir() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("%s is not a folder of this user alone", path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
