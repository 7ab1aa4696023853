package rehearse

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"moult/simlayer/host"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// past has the object run that answers callers of the version before the last, and returns
// where each service is answered for them; those that it does not answer are missing.
// What it has begun ends with end, or with the process.
func (s *stage) past(ctx context.Context) (at map[string]string, end func(), err error) {
	step := s.last()
	native := map[string]string{}
	cfg := host.Config{Dir: objects(s.Folder), Account: s.Account, Bounds: s.Bounds, Sandbox: s.Sandbox, Env: []string{mark(s.Folder)}, Log: s.log}
	for _, service := range s.Software.Services {
		native[service.Name] = service.Addr
		cfg.Services = append(cfg.Services, host.Service{Name: service.Name, Protocol: service.Protocol})
	}
	switch step.Past.Kind {
	case bundle.SimulateCompatible:
		return native, func() {}, nil
	case bundle.SimulateRules, bundle.SimulateWasm, bundle.SimulateExec:
	default:
		return nil, func() {}, nil
	}
	if len(native) == 0 {
		return nil, func() {}, nil
	}
	o := host.Object{
		Version: step.To - 1, To: step.To, Kind: step.Past.Kind, Path: step.Past.File, Dir: step.Dir, Argv: step.Past.Exec,
		Env: append(step.Past.Env, mark(s.Folder)), Memory: step.Past.MemoryMax, Timeout: time.Duration(step.Past.Timeout),
	}
	if step.Past.Stateful() {
		o.State = s.object(step.To, "past")
	}
	h, err := host.Start(cfg)
	if err != nil {
		return nil, nil, err
	}
	end = func() {
		if err := h.Close(); err != nil {
			s.log.Warn("a simulation object of the rehearsal does not end", "err", err)
		}
	}
	if _, err = h.Set(ctx, host.Objects{Native: step.To, Node: native, Hold: hold, List: []host.Object{o}}); err == nil {
		at, err = doors(h.Addrs(o.Version))
	}
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("run the object that answers callers of version %d: %w", o.Version, err)
	}
	return at, end, nil
}

// objects names the object host of a rehearsal in a folder.
func objects(folder string) string { return filepath.Join(folder, "objects") }

// doors gives addresses that programs can dial: where one is a unix socket, a port of the
// loopback interface that leads there, for as long as this process lives.
func doors(addrs map[string]string) (map[string]string, error) {
	at := map[string]string{}
	for name, addr := range addrs {
		path, isUnix := strings.CutPrefix(addr, "unix:")
		if !isUnix {
			at[name] = addr
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		at[name] = l.Addr().String()
		go func() {
			for {
				caller, err := l.Accept()
				if err != nil {
					return
				}
				go pass(caller, path)
			}
		}()
	}
	return at, nil
}

func pass(caller net.Conn, path string) {
	defer caller.Close()
	object, err := net.Dial("unix", path)
	if err != nil {
		return
	}
	defer object.Close()
	stream.Splice(caller, object) // either may break off
}
