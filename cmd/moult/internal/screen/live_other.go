//go:build !unix

package screen

import "os"

// suspension never comes: no shell stops a process here.
type suspension struct{ stop chan os.Signal }

func suspensions() suspension { return suspension{} }

func (suspension) follow() {}

func (suspension) end() {}
