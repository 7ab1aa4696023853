package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// What a scrape may take. Prometheus gives up after 10 seconds unless it is told otherwise.
const (
	scrapeTimeout = 10 * time.Second
	maxScrapes    = 4 // at once
	maxConns      = 32
	maxHeader     = 16 << 10
	lasting       = time.Second // how long a snapshot is shown
)

// Path is where the metrics are.
const Path = "/metrics"

// collector asks the source where the last snapshot is not of just now.
type collector struct {
	source Source

	mu   sync.Mutex // held while the source is asked: nobody asks it twice at once
	last Snapshot
	at   time.Time
}

func (c *collector) snapshot() (Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < lasting {
		return c.last, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	s, err := c.source(ctx)
	if err != nil {
		return s, err
	}
	c.last, c.at = s, time.Now()
	return s, nil
}

func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range all {
		to <- m.desc()
	}
}

func (c *collector) Collect(to chan<- prometheus.Metric) {
	s, err := c.snapshot()
	if err != nil {
		to <- prometheus.NewInvalidMetric(agentInfo.desc(), fmt.Errorf("the agent does not say how it is: %w", err))
		return
	}
	sink(to).send(s)
}

// Handler answers scrapes, of Go's own and the process's metrics, too.
func Handler(source Source, log *slog.Logger) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(&collector{source: source}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET "+Path, promhttp.HandlerFor(r, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout, EnableOpenMetrics: true,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}))
	return mux
}

// A Server answers scrapes.
type Server struct {
	http *http.Server
	done chan struct{}
}

// Serve answers scrapes on l, which it owns from now on, until Close.
func Serve(l net.Listener, source Source, log *slog.Logger) *Server {
	s := &Server{
		http: &http.Server{
			Handler: Handler(source, log), MaxHeaderBytes: maxHeader,
			ReadHeaderTimeout: scrapeTimeout, ReadTimeout: scrapeTimeout, WriteTimeout: 2 * scrapeTimeout, IdleTimeout: 2 * time.Minute,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(netutil.LimitListener(l, maxConns)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics ended", "err", err)
		}
	}()
	return s
}

// Close ends all scrapes.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}
