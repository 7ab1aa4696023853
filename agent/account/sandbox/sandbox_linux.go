package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// system are the folders and files of the system that programs need to run at all.
var system = []string{
	"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/opt", "/nix", "/gnu", "/etc", "/proc", "/sys",
	"/run/systemd/resolve", "/run/systemd/userdb", "/run/resolvconf", "/run/NetworkManager", "/run/connman", "/run/netconfig", "/run/nscd",
	"/snap", "/var/lib/ca-certificates", "/var/lib/sss",
	"/dev/zero", "/dev/random", "/dev/urandom",
}

// devices may be written to, too; all other devices are out of reach: a disk holds all that
// is kept from programs.
var devices = []string{"/dev/null", "/dev/full"}

// systemKept is what is secret of the system's, whoever the agent is.
var systemKept = []string{"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/ssh", "/etc/ssl/private"}

const (
	reading = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	// writing makes no devices, by which root could reach all that is on a disk.
	writing = reading | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	making = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	// ofFiles are the rights that a rule for a file may have.
	ofFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// Versions of Landlock's interface from which on it knows something.
const (
	knowsRefer    = 2 // files moved between folders (Linux 5.19)
	knowsTruncate = 3 // files cut (6.2)
	knowsScopes   = 6 // signals and abstract sockets (6.12)
)

// abi is the version of Landlock's interface; 0 where there is none. Tests lower it.
var abi = func() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// Lacks says what of a sandbox cannot be had here, and what would give it; "" for nothing.
func Lacks() string {
	const programs = "transforms, rehearsals and programs of simulation objects"
	switch v := abi(); {
	case v < 1:
		return "this kernel has no Landlock, so " + programs + " can read and write whatever their user can: boot one of 5.13 or later with landlock in its lsm= list, or set user in agent.hcl"
	case v < knowsTruncate:
		return "the Landlock of this kernel does not hold " + programs + " to their folders wholly: files that they may not write to they can still cut; boot Linux 6.2 or later, or set user in agent.hcl"
	case v < knowsScopes:
		return "the Landlock of this kernel does not keep " + programs + " from sending signals to the agent: boot Linux 6.12 or later, or set user in agent.hcl"
	}
	if _, _, err := standing(os.Getpid()); err != nil {
		return "this kernel does not show who is in a sandbox, so " + programs + " can command the agent: boot Linux 5.9 or later with CONFIG_SECCOMP_FILTER, or set user in agent.hcl"
	}
	return ""
}

// Enter holds the calling thread, and so what it starts, to the sandbox. The caller must be
// locked to the thread, and let it end. What it starts can gain no rights. The kernel lets
// who may watch the whole machine (CAP_PERFMON, CAP_SYS_ADMIN) read the environment of
// other processes all the same: account.Drop takes these from the thread.
func (s *Sandbox) Enter() error {
	if s == nil {
		return nil
	}
	v := abi()
	if v < 1 {
		return nil // which Lacks says
	}
	r := rules{handled: writing | making}
	if v < knowsTruncate {
		r.handled &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if v < knowsRefer {
		r.handled &^= unix.LANDLOCK_ACCESS_FS_REFER // which then nobody has
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: r.handled}
	if v >= knowsScopes && !s.Signals {
		attr.Scoped = unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	r.fd = int(fd)
	defer unix.Close(r.fd)
	if err := r.addAll(s); err != nil {
		return fmt.Errorf("hold a program to its folders: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return mark()
}

// rules are those of a ruleset that is being made.
type rules struct {
	fd, n   int
	handled uint64
}

func (r *rules) addAll(s *Sandbox) error {
	var kept []string
	for _, path := range append(append([]string{}, s.Kept...), systemKept...) {
		kept = append(kept, path)
		if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
			kept = append(kept, real)
		}
	}
	for _, set := range []struct {
		paths  []string
		access uint64
		kept   []string
	}{
		{system, reading, kept}, {s.Given, reading, kept}, {s.GivenToWrite, writing, kept},
		{devices, writing, nil}, {s.Read, reading, nil}, {s.Write, writing, nil},
	} {
		for _, path := range set.paths {
			if err := r.add(path, set.access, set.kept); err != nil {
				return err
			}
		}
	}
	return nil
}

// add allows what is below path, but for what is kept. Of a folder that holds something
// that is kept, names can be seen, and each other entry that it has now is allowed.
func (r *rules) add(path string, access uint64, kept []string) error {
	if len(kept) == 0 {
		return r.allow(path, access) // also a program whose file has no name any more, by /proc/self/exe
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil // it is not there, or nobody could get at it
	}
	holds := false
	for _, k := range kept {
		if within(k, real) {
			return nil
		}
		holds = holds || within(real, k)
	}
	if !holds {
		return r.allow(real, access)
	}
	if err := r.allow(real, access&unix.LANDLOCK_ACCESS_FS_READ_DIR); err != nil {
		return err
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return nil // whoever cannot read it here cannot there either
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			continue // what it leads to is allowed where that lies
		}
		if err := r.add(filepath.Join(real, e.Name()), access, kept); err != nil {
			return err
		}
	}
	return nil
}

// within reports whether path is dir, or below it.
func within(dir, path string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// allow allows what is below one path. What has gone meanwhile, or cannot be looked at, is
// left out.
func (r *rules) allow(path string, access uint64) error {
	if r.n++; r.n > maxRules {
		return fmt.Errorf("more than %d rules: what is kept from it lies in a folder with too many entries, of which %s is one: give keys a folder of their own", maxRules, path)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= ofFiles
	}
	if access &= r.handled; access == 0 {
		return nil
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("landlock_add_rule %s: %w", path, errno)
	}
	return nil
}
