package account

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func isMainThread() bool { return unix.Gettid() == unix.Getpid() }

// needed are the capabilities without which root cannot look after another user's
// programs, give it files, and take its sockets back.
var needed = map[string]int{
	"CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "CAP_FOWNER": unix.CAP_FOWNER, "CAP_KILL": unix.CAP_KILL,
	"CAP_SETGID": unix.CAP_SETGID, "CAP_SETUID": unix.CAP_SETUID, "CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE,
}

// lacks reports which of them this process, whose user is root, has not.
func lacks() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if data[0].Effective&(1<<needed[name]) == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("user: the agent is root without %s, so it cannot look after another user's programs: give it these capabilities (a service manager or a container has taken them), or leave user out", strings.Join(missing, ", "))
	}
	return nil
}

// noFixup is SECBIT_NO_SETUID_FIXUP: with it, who becomes another user keeps capabilities.
const noFixup = 1 << 2

// worked are the capabilities that programs of root's keep which work for the node beside
// its software, where no user is named: what it takes to handle the files and processes of
// other users, whose the state may be since the software becomes them by itself.
var worked = []int{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL,
	unix.CAP_NET_BIND_SERVICE, unix.CAP_SETGID, unix.CAP_SETUID,
}

// Drop takes from the calling thread, and so from what it starts, all ways to rights
// that a user does not have. The caller must be locked to the thread, which must not be
// the main one, and let it end. [Account.Run] does so.
//
// A nil account's programs stay who the agent is. They can gain no rights either; root's
// keep the few capabilities that are good for files and processes, and those of others none.
func (a *Account) Drop() error {
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if a != nil && err == nil && bits&noFixup != 0 {
		return errors.New("the agent was started so that its programs keep capabilities (no-setuid-fixup of securebits): start it without")
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err)
	}
	// Kernels without ambient capabilities have none.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return os.NewSyscallError("prctl PR_CAP_AMBIENT_CLEAR_ALL", err)
	}
	var keeps uint64
	if a == nil {
		for _, c := range worked {
			keeps |= 1 << c
		}
	}
	// The bounding set only matters to who can gain rights, which nobody can any more;
	// without CAP_SETPCAP it stays.
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if keeps&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			break
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range data {
		data[i].Inheritable = 0
		if a == nil { // an account's go with the change of users, which takes some of them
			half := uint32(keeps >> (32 * i))
			data[i].Permitted &= half
			data[i].Effective &= half
		}
	}
	return os.NewSyscallError("capset", unix.Capset(&hdr, &data[0]))
}
