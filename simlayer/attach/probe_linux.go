package attach

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Probe says whether a Kind works here, for this process: nil, or the reason in
// words, which is ErrNotSupported or ErrNotPermitted. It takes about a
// millisecond and leaves nothing behind. That it says yes is no promise: a
// socket of the wrong kind, say, is only met when it is there.
func Probe(kind Kind) error {
	var err error
	switch kind {
	case KindInherit:
		err = probeInherit()
	case KindSteer:
		err = probeSteer()
	case KindTake:
		err = probeTake()
	default:
		err = fmt.Errorf("%w: want %s, %s or %s", ErrNotSupported, KindInherit, KindSteer, KindTake)
	}
	if err != nil {
		return fmt.Errorf("attach by %s: %w", kind, err)
	}
	return nil
}

func probeInherit() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return permission(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return fmt.Errorf("SO_REUSEPORT: %w", permission(err))
	}
	return direct(fd, 0, 0)
}

func probeTake() error {
	if scope := yama(); scope >= 3 || scope == 2 && !has(capSysPtrace) {
		return foreign(unix.EPERM)
	}
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return foreign(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, pidfd, 0)
	if err != nil {
		return foreign(err)
	}
	return unix.Close(fd)
}

func probeSteer() error {
	addresses, prog, err := loadProgram(1)
	if err != nil {
		return err
	}
	addresses.Close()
	prog.Close()
	if _, err := FindBPFFS(); err != nil && !has(capSysAdmin) {
		return fmt.Errorf("%w: the agent may not mount one: %w", ErrNotPermitted, err)
	}
	return nil
}

// Numbers of the rights that matter here.
const (
	capNetAdmin  = 12
	capSysPtrace = 19
	capSysAdmin  = 21
	capBPF       = 39
)

// has says whether this process has a right, in its own user namespace.
func has(right uint) bool {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return err == nil && set&(1<<right) != 0
}

// rights explains what BPF needs.
func rights(err error) error {
	switch {
	case errors.Is(err, ErrNotPermitted), errors.Is(err, ErrNotSupported):
		return err
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %s: %w", ErrNotPermitted, missing(), err)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: sk_lookup needs Linux 5.9 with BPF and stream parsers (CONFIG_BPF_SYSCALL, CONFIG_BPF_STREAM_PARSER); this is %s: %w", ErrNotSupported, release(), err)
	}
	return err
}

// missing says why the kernel may have refused.
func missing() string {
	var lacks []string
	if !has(capNetAdmin) {
		lacks = append(lacks, "CAP_NET_ADMIN")
	}
	if !has(capBPF) && !has(capSysAdmin) {
		lacks = append(lacks, "CAP_BPF (before Linux 5.8: CAP_SYS_ADMIN)")
	}
	if len(lacks) > 0 {
		return "the agent lacks " + strings.Join(lacks, " and ")
	}
	return "the agent's rights are those of a user namespace or a sandbox, which do not count for BPF, or (before Linux 5.11) its limit of locked memory is too small (LimitMEMLOCK=infinity)"
}

// release is the kernel's version.
func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "a kernel that does not say"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}
