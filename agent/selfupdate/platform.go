package selfupdate

import (
	"debug/elf"
	"debug/macho"
	"fmt"
	"io"
	"runtime"
)

// machines are what programs name the architectures that agents are built for.
var machines = map[string]struct {
	elf   elf.Machine
	macho macho.Cpu
}{
	"amd64":   {elf.EM_X86_64, macho.CpuAmd64},
	"arm64":   {elf.EM_AARCH64, macho.CpuArm64},
	"386":     {elf.EM_386, macho.Cpu386},
	"arm":     {elf.EM_ARM, macho.CpuArm},
	"riscv64": {elf.EM_RISCV, 0},
	"ppc64le": {elf.EM_PPC64, 0},
	"s390x":   {elf.EM_S390, 0},
	"loong64": {elf.EM_LOONGARCH, 0},
}

// runsHere looks whether a file is a program for this system and processor.
func runsHere(in io.ReaderAt) (err error) {
	defer func() {
		if r := recover(); r != nil { // whatever the file says
			err = fmt.Errorf("no program: %.100v", r)
		}
	}()
	want, known := machines[runtime.GOARCH]
	if !known {
		return nil // the check runs it
	}
	if runtime.GOOS == "darwin" {
		f, err := macho.NewFile(in)
		if err != nil {
			return fmt.Errorf("no program for %s: %w", runtime.GOOS, err)
		}
		if f.Cpu != want.macho {
			return fmt.Errorf("a program for %v, and this machine is %s", f.Cpu, runtime.GOARCH)
		}
		return nil
	}
	f, err := elf.NewFile(in)
	if err != nil {
		return fmt.Errorf("no program for %s: %w", runtime.GOOS, err)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("no program, but %v", f.Type)
	}
	if f.Machine != want.elf {
		return fmt.Errorf("a program for %v, and this machine is %s", f.Machine, runtime.GOARCH)
	}
	return nil
}
