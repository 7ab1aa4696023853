package so

// settle works out what c's expressions need.
func (c *callRule) settle() {
	request := func(e *expr) {
		if e != nil {
			c.readsRequest = c.readsRequest || e.body || e.callerBody
			c.readsForm = c.readsForm || e.form
			c.readsSteps = c.readsSteps || e.stepBody
		}
	}
	// over is for expressions over a response, whose body reads is about.
	over := func(reads *bool) func(*expr) {
		return func(e *expr) {
			if e != nil {
				c.readsRequest = c.readsRequest || e.callerBody
				c.readsForm = c.readsForm || e.form
				c.readsSteps = c.readsSteps || e.stepBody
				*reads = *reads || e.body
			}
		}
	}
	request(c.when)
	eachOf(request, message{params: c.params}, c.denials)
	for _, s := range c.steps {
		request(s.when)
		request(s.foreach)
		eachOf(request, message{params: s.params, content: s.content}, nil)
		eachOf(over(&s.reads), message{}, s.denials)
		for _, r := range s.responses {
			eachOf(over(&r.reads), r.message, r.denials)
		}
	}
	if c.next != nil {
		eachOf(request, message{params: c.next.params, content: c.next.content}, nil)
	}
	for _, a := range c.answers {
		request(a.when)
		eachOf(request, a.message, nil)
	}
	for _, r := range c.responses {
		eachOf(over(&r.reads), r.message, r.denials)
		c.plainResponse = c.plainResponse || r.reads || r.content.made
	}
}

func eachOf(f func(*expr), m message, denials []*denial) {
	for _, one := range m.params {
		f(one.value)
	}
	f(m.status.computed)
	f(m.content.json)
	for _, d := range denials {
		f(d.when)
		eachOf(f, d.message, nil)
	}
}
