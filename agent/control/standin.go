package control

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// standIn is the socket of an agent whose data folder takes none, on a disk that is mounted
// read-only.
func standIn(path string) (string, error) {
	abs, err := filepath.Abs(path)
	sum := sha256.Sum256([]byte(abs))
	return filepath.Join(os.TempDir(), fmt.Sprintf("moult-%x.sock", sum[:8])), err
}

// listenStandIn listens there where err says that the disk is read-only.
func listenStandIn(path string, err error) (net.Listener, error) {
	if !errors.Is(err, syscall.EROFS) {
		return nil, err
	}
	other, oerr := standIn(path)
	if oerr != nil || other == path {
		return nil, errors.Join(err, oerr)
	}
	return ListenUnix(other)
}

// trustedStandIn returns the stand-in where there is one, and it belongs to whom the data
// folder belongs to: anybody may make files where it is.
func trustedStandIn(path string) (string, bool) {
	other, err := standIn(path)
	if err != nil {
		return "", false
	}
	fi, err := os.Lstat(other)
	if err != nil || fi.Mode().Type() != os.ModeSocket {
		return "", false
	}
	dir, err := os.Stat(filepath.Dir(path))
	return other, err == nil && sameOwner(fi, dir)
}
