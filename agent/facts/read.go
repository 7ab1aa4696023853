package facts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"moult/store/bundle"
)

// errNotNumber is of an answer that came, and has no number where it should.
var errNotNumber = errors.New("not a number")

func notNumber(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errNotNumber, fmt.Sprintf(format, args...))
}

// parse reads a number that stands alone.
func parse(text string) (float64, error) {
	text = strings.TrimSpace(text)
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0, notNumber("%.*q", maxSaid, text)
	}
	return x, nil
}

// inJSON finds the number that a JSON pointer (RFC 6901) names.
func inJSON(data []byte, pointer string) (float64, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		return 0, notNumber("it is no JSON: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return 0, notNumber("there is more after the JSON document")
	}
	if pointer != "" {
		for _, part := range strings.Split(pointer[1:], "/") {
			part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
			found := false
			switch in := value.(type) {
			case map[string]any:
				value, found = in[part]
			case []any:
				i, err := strconv.Atoi(part)
				if found = err == nil && i >= 0 && i < len(in) && strconv.Itoa(i) == part; found {
					value = in[i]
				}
			}
			if !found {
				return 0, notNumber("the answer has no %s", pointer)
			}
		}
	}
	n, ok := value.(json.Number)
	if !ok {
		return 0, notNumber("%s of the answer is no number", pointer)
	}
	return parse(n.String())
}

// inMetrics adds up the series that a selector names on a page in Prometheus' text format.
func inMetrics(data []byte, selector string) (float64, error) {
	series, err := bundle.ParseSeries(selector)
	if err != nil {
		return 0, notNumber("%v", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return 0, notNumber("the answer is no page of metrics: %v", err)
	}
	sum, found := 0.0, false
	for _, suffix := range []string{"", "_sum", "_count"} {
		family := families[strings.TrimSuffix(series.Metric, suffix)]
		if suffix != "" && !strings.HasSuffix(series.Metric, suffix) {
			continue
		}
		for _, m := range family.GetMetric() {
			if x, ok := valueOf(m, suffix); ok && has(m, series.Labels) {
				sum, found = sum+x, true
			}
		}
	}
	switch {
	case !found:
		return 0, notNumber("the answer has no %s", selector)
	case math.IsNaN(sum), math.IsInf(sum, 0):
		return 0, notNumber("%s is %v", selector, sum)
	}
	return sum, nil
}

// valueOf returns the value of a series that ends so.
func valueOf(m *dto.Metric, suffix string) (float64, bool) {
	h, s := m.GetHistogram(), m.GetSummary()
	switch {
	case suffix == "_sum" && h != nil:
		return h.GetSampleSum(), true
	case suffix == "_sum" && s != nil:
		return s.GetSampleSum(), true
	case suffix == "_count" && h != nil:
		return float64(h.GetSampleCount()), true
	case suffix == "_count" && s != nil:
		return float64(s.GetSampleCount()), true
	case suffix != "" || h != nil || s != nil:
		return 0, false
	case m.Counter != nil:
		return m.Counter.GetValue(), true
	case m.Gauge != nil:
		return m.Gauge.GetValue(), true
	}
	return m.GetUntyped().GetValue(), m.Untyped != nil
}

func has(m *dto.Metric, labels map[string]string) bool {
	there := 0
	for _, l := range m.GetLabel() {
		if want, ok := labels[l.GetName()]; ok && want == l.GetValue() {
			there++
		}
	}
	return there == len(labels)
}
