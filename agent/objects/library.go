package objects

import (
	"context"
	"maps"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// library is what objects run from, as far as it was verified.
type library struct {
	paths map[bundle.Digest]string    // of programs and modules
	rules map[bundle.Digest]*so.Rules // parsed; nil where they do not parse
	// seeking are those that are looked for: true until the first look has failed.
	seeking map[bundle.Digest]bool
}

func newLibrary() library {
	return library{paths: map[bundle.Digest]string{}, rules: map[bundle.Digest]*so.Rules{}, seeking: map[bundle.Digest]bool{}}
}

func (l *library) found(file bundle.Digest, path string) {
	delete(l.seeking, file)
	l.paths[file] = path
}

// notFound reports whether that is news.
func (l *library) notFound(file bundle.Digest) bool {
	news := l.seeking[file]
	if news {
		l.seeking[file] = false
	}
	return news
}

// keep forgets those of objects that are no more: they may be swept.
func (l *library) keep(used map[bundle.Digest]bool) {
	maps.DeleteFunc(l.paths, func(d bundle.Digest, _ string) bool { return !used[d] })
	maps.DeleteFunc(l.rules, func(d bundle.Digest, _ *so.Rules) bool { return !used[d] })
}

// parsed returns the rules of a file, nil where they do not parse, and whether the
// file is here.
func (o *Objects) parsed(file bundle.Digest) (rules *so.Rules, here bool) {
	if rules, ok := o.library.rules[file]; ok {
		return rules, true
	}
	data, ok, err := o.cfg.Depot.Blob(file)
	if err != nil || !ok {
		return nil, false
	}
	rules, err = so.ParseRules(data, file.Short()+".hcl")
	if err != nil {
		o.cfg.Alarm("rules " + file.Short() + " do not parse here, their callers are refused: " + err.Error())
		rules = nil
	}
	o.library.rules[file] = rules
	return rules, true
}

// path returns where what an object runs from is. Where it is not known to be good it
// is looked for beside the owner, until that succeeds.
func (o *Objects) path(one Object) (path string, here bool) {
	file, _ := one.file()
	if path, ok := o.library.paths[file]; ok {
		return path, true
	}
	if _, sought := o.library.seeking[file]; sought {
		return "", false
	}
	o.library.seeking[file] = true
	o.cfg.Go(func(ctx context.Context) {
		for pause := minPause; ; pause = min(2*pause, maxPause) {
			path, err := o.cfg.Get(ctx, one)
			if err == nil {
				o.cfg.Tell(hasFound{file, path})
				return
			}
			o.cfg.Log.Warn("the files of a simulation object are not here, trying again", "callers", one.Callers, "in", pause, "err", err)
			o.cfg.Tell(hasNotFound{file})
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
		}
	})
	return "", false
}

// beingChecked reports whether what an object runs from is on this disk, and the look
// whether it is good has not ended.
func (o *Objects) beingChecked(one Object) bool {
	file, _ := one.file()
	if !o.library.seeking[file] {
		return false
	}
	if one.What.Kind == bundle.SimulateExec {
		return o.cfg.Depot.Has(file)
	}
	return o.cfg.Depot.HasBlob(file)
}
