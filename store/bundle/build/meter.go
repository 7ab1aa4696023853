package build

import "io"

// meter tells what is written to w, read from r, or read from at from its beginning to its end.
type meter struct {
	w    io.Writer
	r    io.Reader
	at   io.ReaderAt
	done int64
	tell func(done int64)
}

// meter counts for one stage.
func (o Options) meter(stage string, total int64) *meter {
	m := &meter{tell: func(int64) {}}
	if o.Progress != nil {
		m.tell = func(done int64) { o.Progress(stage, done, total) }
	}
	return m
}

func (m *meter) add(n int) {
	m.done += int64(n)
	m.tell(m.done)
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.add(n)
	return n, err
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.add(n)
	return n, err
}

func (m *meter) ReadAt(p []byte, off int64) (int, error) {
	n, err := m.at.ReadAt(p, off)
	m.tell(off + int64(n))
	return n, err
}
