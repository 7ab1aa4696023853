package control

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"syscall"

	"moult/store/standin"
)

// standIn is the socket of an agent whose data folder takes none, on a disk that is mounted
// read-only.
type standIn struct {
	net.Listener
	folder *standin.Folder
}

func (s standIn) Close() error { return errors.Join(s.Listener.Close(), s.folder.Close()) }

// listenStandIn listens in a stand-in where err says that the disk is read-only.
func listenStandIn(path string, err error) (net.Listener, error) {
	if !errors.Is(err, syscall.EROFS) {
		return nil, err
	}
	folder, ferr := standin.New(filepath.Dir(path))
	if ferr != nil {
		return nil, errors.Join(err, ferr)
	}
	l, lerr := ListenUnix(filepath.Join(folder.Path(), filepath.Base(path)))
	if lerr != nil {
		return nil, errors.Join(err, lerr, folder.Close())
	}
	return standIn{l, folder}, nil
}

// dialUnix calls the socket of an agent, or that which stands in for it.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		return conn, nil
	}
	folders, ferr := standin.Find(filepath.Dir(path))
	if ferr != nil {
		return nil, err
	}
	for _, folder := range folders {
		if conn, serr := d.DialContext(ctx, "unix", filepath.Join(folder, filepath.Base(path))); serr == nil {
			return conn, nil // those of dead agents answer nobody
		}
	}
	return nil, err
}
