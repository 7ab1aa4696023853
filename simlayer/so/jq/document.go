package jq

// Document is a JSON text that was read. The zero Document is null.
type Document struct {
	data   []byte
	doc    *document // nil where it is not in a form for bounded programs
	tree   any       // what gojq sees; it is made when first asked for
	parsed bool      // tree is made
}

// Read reads one JSON value, which d then has; an empty text is null. data and memory,
// which may be nil, belong to d while it is in use. The error says what is wrong with
// data: see Decode.
func (d *Document) Read(data []byte, memory *Memory) (err error) {
	*d = Document{data: data}
	var ok bool
	if d.doc, ok = scan(data, memory); ok {
		return nil
	}
	if d.tree, err = Decode(data); err != nil {
		return err
	}
	d.parsed = true
	d.doc = normalDocument(d.tree)
	return nil
}

// Tree returns d as gojq's values.
func (d *Document) Tree() (any, error) {
	var err error
	if !d.parsed {
		d.tree, err = Decode(d.data)
		d.parsed = err == nil
	}
	return d.tree, err
}

// Value returns d for a program.
func (d *Document) Value() Value {
	if d.doc == nil {
		return Value{v: d.tree}
	}
	return Value{raw: d.doc.raw, doc: d.doc}
}
