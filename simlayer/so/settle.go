package so

// settle works out what c's expressions need.
func (c *callRule) settle() {
	request := func(e *expr) {
		if e != nil {
			c.readsRequest = c.readsRequest || e.body || e.callerBody
			c.readsSteps = c.readsSteps || e.stepBody
		}
	}
	// over is for expressions over a response, whose body reads is about.
	over := func(reads *bool) func(*expr) {
		return func(e *expr) {
			if e != nil {
				c.readsRequest = c.readsRequest || e.callerBody
				c.readsSteps = c.readsSteps || e.stepBody
				*reads = *reads || e.body
			}
		}
	}
	eachOf(request, c.params, c.denials, content{})
	for _, s := range c.steps {
		request(s.when)
		request(s.foreach)
		eachOf(request, s.params, nil, s.content)
		eachOf(over(&s.reads), nil, s.denials, content{})
		for _, r := range s.responses {
			eachOf(over(&r.reads), r.params, r.denials, r.content)
		}
	}
	if c.next != nil {
		eachOf(request, c.next.params, nil, c.next.content)
	}
	if c.answer != nil {
		eachOf(request, c.answer.params, nil, c.answer.content)
	}
	for _, r := range c.responses {
		eachOf(over(&r.reads), r.params, r.denials, r.content)
		c.plainResponse = c.plainResponse || r.reads || r.content.made
	}
}

func eachOf(f func(*expr), params []param, denials []*denial, body content) {
	for _, one := range params {
		f(one.value)
	}
	for _, d := range denials {
		f(d.when)
	}
	f(body.json)
}
