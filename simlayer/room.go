package simlayer

import (
	"fmt"
	"net/http"

	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// room refuses a call of version v that goes p's way, if that leads to an object
// process that has as many calls as it may have.
func (f *listener) room(r *routes.Route, p *routes.Path, v bundle.Version) error {
	if p.Via == 0 {
		return nil
	}
	most := max(1, f.layer.cfg.Limits.Conns/objectShare)
	if f.service.tally.Of(v).Open() < int64(most) {
		return nil
	}
	return &so.Refusal{
		Status: http.StatusServiceUnavailable,
		Reason: fmt.Sprintf("%d calls of version %d are at the simulation object for version %d, and it may have no more; an object that calls an address of the node that it answers for, and not the one in MOULT_NEXT, calls itself", most, v, p.Via),
		From:   v, To: r.Native, RetryAfter: retryAfter,
	}
}
