package node

import (
	"errors"
	"net/http"
	"sync/atomic"
)

// stats answers GET /stats: what became of the calls since the node was started, but for
// those to /stats itself and of health checks.
type stats struct {
	OK     uint64 `json:"ok"`
	Failed uint64 `json:"failed"` // answered with 500 or above
	// Errors is the share of those that failed, 0.0 to 1.0.
	Errors float64 `json:"errors"`
}

// counted is h with /stats. Every failEvery-th call fails before it reaches h; 0 is none.
func counted(h http.Handler, failEvery int) http.Handler {
	var calls, failed atomic.Uint64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		bad := failed.Load()
		all := max(calls.Load(), bad)
		s := stats{OK: all - bad, Failed: bad}
		if all > 0 {
			s.Errors = float64(bad) / float64(all)
		}
		Answer(w, http.StatusOK, s)
	})
	mux.Handle("GET /healthz", h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, own := mux.Handler(r); own != "" {
			mux.ServeHTTP(w, r)
			return
		}
		if n := calls.Add(1); failEvery > 0 && n%uint64(failEvery) == 0 {
			failed.Add(1)
			Fail(w, http.StatusInternalServerError, errors.New("this call fails, as --fail-every asks"))
			return
		}
		answer := &statusWriter{ResponseWriter: w}
		h.ServeHTTP(answer, r)
		if answer.status >= http.StatusInternalServerError {
			failed.Add(1)
		}
	})
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
