package guests

import (
	"encoding/json"
	"net/http"

	"moult/simlayer/so"
)

// observed tells an object of an event. The call that brings it is not one of the
// object's callers.
func (a *answerer) observed(w http.ResponseWriter, r *http.Request, c *call, obj *object) {
	refuse := func(err error) {
		refusal := *so.AsRefusal(err)
		refusal.From, refusal.To = obj.Version, obj.To
		refusal.WriteTo(w, r)
	}
	watcher, ok := obj.Object.(so.Observer)
	if !ok {
		// One that could not be made: it may be there when it is tried again.
		refuse(so.Fail(http.StatusServiceUnavailable, nil, "the simulation object for version %d cannot be told of calls: %s", obj.Version, obj.problem))
		return
	}
	var event so.Observed
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxObserved)).Decode(&event); err != nil {
		refuse(so.Fail(http.StatusBadRequest, err, "the event cannot be read: %v", err))
		return
	}
	if event.Service != "" {
		c.at.Service = event.Service // whose next it calls
	}
	if err := watcher.Observe(r.Context(), &event, &hop{a: a, setup: c.setup, version: obj.To, call: c}); err != nil {
		a.log.Warn("a simulation object has not taken in a call", "object", obj.Version, "err", err)
		refuse(err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
