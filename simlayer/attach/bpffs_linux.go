package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// FindBPFFS returns where a BPF file system is mounted, /sys/fs/bpf if there. It
// fails with ErrNotFound where there is none; see MountBPFFS.
func FindBPFFS() (string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("bpf"))
	if err != nil {
		return "", fmt.Errorf("find a BPF file system: %w", err)
	}
	found := ""
	for _, m := range mounts {
		// One that is hidden below another mount is of no use.
		if onBPFFS(m.Mountpoint) && (found == "" || m.Mountpoint == DefaultBPFFS) {
			found = m.Mountpoint
		}
	}
	if found == "" {
		return "", fmt.Errorf("find a BPF file system: %w: mount one (mount -t bpf bpf %s)", ErrNotFound, DefaultBPFFS)
	}
	return found, nil
}

// MountBPFFS mounts a BPF file system on a folder, which it makes where it is
// missing. Where one is there already it does nothing. It needs CAP_SYS_ADMIN.
func MountBPFFS(path string) error {
	if onBPFFS(path) {
		return nil
	}
	err := os.MkdirAll(path, 0o700)
	if err == nil {
		err = unix.Mount("bpf", path, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700")
	}
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: it needs CAP_SYS_ADMIN; let the system mount it, and give the agent a folder in it: %w", ErrNotPermitted, err)
	}
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w: the kernel has no BPF file system: %w", ErrNotSupported, err)
	}
	if err != nil {
		return fmt.Errorf("mount a BPF file system on %s: %w", path, err)
	}
	return nil
}

func onBPFFS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}

// checkDir says whether a folder is, or would be made, in a BPF file system.
func checkDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%q: want an absolute path", dir)
	}
	at := filepath.Clean(dir)
	for {
		_, err := os.Lstat(at)
		if err == nil {
			break
		}
		// A dotted name is "not permitted" there, which would mislead.
		if strings.Contains(filepath.Base(at), ".") && onBPFFS(filepath.Dir(at)) {
			return fmt.Errorf("%q: a BPF file system allows no dots in names", filepath.Base(at))
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		at = filepath.Dir(at)
	}
	if !onBPFFS(at) {
		return fmt.Errorf("%w: %s is not in a BPF file system: mount one (mount -t bpf bpf %s) and name a folder in it", ErrNotSupported, dir, DefaultBPFFS)
	}
	return nil
}
