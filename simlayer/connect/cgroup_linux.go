package connect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// MountCgroup2 mounts the cgroup v2 file system at a folder, which it makes, and
// needs root. It is for systems that have mounted none; nothing else in this
// package mounts anything.
func MountCgroup2(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("mount cgroup v2: %w", err)
	}
	if err := unix.Mount("cgroup2", path, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount cgroup v2 at %s: %w", path, err)
	}
	return nil
}

// findCgroup2 returns where cgroup v2 is mounted, with its root.
func findCgroup2() (string, error) {
	mounts, err := mountinfo.GetMounts(firstCgroup2)
	if err != nil {
		return "", fmt.Errorf("find the mounted cgroup v2: %w", err)
	}
	if len(mounts) == 0 {
		return "", fmt.Errorf("no cgroup v2 is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup`: %w", ErrNotSupported)
	}
	return mounts[0].Mountpoint, nil
}

// firstCgroup2 picks the first place of cgroup v2 whose root is mounted.
func firstCgroup2(m *mountinfo.Info) (skip, stop bool) {
	found := m.FSType == "cgroup2" && m.Root == "/"
	return !found, found
}

// openCgroup makes the node's cgroup below parent and opens its folder.
func openCgroup(parent, name string) (*os.File, error) {
	if parent == "" {
		mount, err := findCgroup2()
		if err != nil {
			return nil, err
		}
		parent = filepath.Join(mount, "moult")
	}
	if !filepath.IsAbs(parent) {
		return nil, fmt.Errorf("cgroup %q: want an absolute path", parent)
	}
	if err := checkCgroup(parent); err != nil {
		return nil, err
	}
	path := filepath.Join(parent, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make the cgroup %s: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the cgroup: %w", err)
	}
	return f, nil
}

// checkCgroup reports whether a folder is, or would be, in a cgroup v2.
func checkCgroup(path string) error {
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if errors.Is(err, fs.ErrNotExist) && at != "/" {
			continue
		}
		if err != nil {
			return fmt.Errorf("cgroup %s: %w", path, err)
		}
		if int64(st.Type) != unix.CGROUP2_SUPER_MAGIC {
			return fmt.Errorf("cgroup %s: %s is in no cgroup v2", path, at)
		}
		return nil
	}
}

// checkDir reports whether a folder can hold pins.
func checkDir(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("folder for pins %s: %w", dir, err)
	}
	if int64(st.Type) != unix.BPF_FS_MAGIC {
		return fmt.Errorf("folder for pins %s: it is in no BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf`: %w", dir, ErrNotSupported)
	}
	return nil
}
