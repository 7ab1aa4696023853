package chart

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"moult/agent/fleet"
	"moult/store/durable"
)

// ErrForm is that of a file's name that says no form which can be drawn.
var ErrForm = errors.New("a picture's name ends in .svg or .png")

// 800 × 400 pixels of 1/96 inch, which is what both forms go by.
const (
	width  = 800 * vg.Inch / 96
	height = 400 * vg.Inch / 96
)

type canvas interface {
	vg.CanvasSizer
	io.WriterTo
}

// form is what draws a file's form.
func form(path string) (canvas, error) {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".svg":
		return vgsvg.New(width, height), nil
	case ".png":
		return vgimg.PngCanvas{Canvas: vgimg.New(width, height)}, nil
	}
	return nil, fmt.Errorf("%s: %w", path, ErrForm)
}

// Check says what is wrong with the name of a picture, before there is one to write.
func Check(path string) error {
	if _, err := form(path); err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is there, and is no file that can be replaced", path)
	}
	folder := filepath.Dir(path)
	switch info, err := os.Stat(folder); {
	case err != nil:
		return fmt.Errorf("the folder of %s: %w", path, err)
	case !info.IsDir():
		return fmt.Errorf("the folder of %s: %s is none", path, folder)
	}
	return nil
}

// Write draws the course of a rollout on so many nodes into a file, whole or not at all. What
// was there before is replaced.
func Write(path, title string, nodes int, s *Series) error {
	to, err := form(path)
	if err != nil {
		return err
	}
	if err := paint(draw.New(to), title, nodes, s.points()); err != nil {
		return fmt.Errorf("draw %s: %w", path, err)
	}
	var data bytes.Buffer
	if _, err := to.WriteTo(&data); err != nil {
		return fmt.Errorf("draw %s: %w", path, err)
	}
	// Where a browser has not that font, it would take one with serifs.
	drawn := bytes.ReplaceAll(data.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,sans-serif;"))
	return durable.WriteFile(path, drawn, 0o644)
}

// curve is one line of the picture, in the panel above or below.
type curve struct {
	name  string
	below bool
	of    func(fleet.Sample) float64
	style draw.LineStyle
}

func curves(nodes int) []curve {
	share := func(n int) float64 { return 100 * float64(n) / float64(nodes) }
	style := func(r, g, b uint8, dashes ...vg.Length) draw.LineStyle {
		return draw.LineStyle{Color: color.RGBA{R: r, G: g, B: b, A: 255}, Width: vg.Points(1.5), Dashes: dashes}
	}
	return []curve{
		{"serve", false, func(s fleet.Sample) float64 { return share(nodes - s.Down) }, style(0, 114, 178)},
		{"settled", false, func(s fleet.Sample) float64 { return share(s.Settled) }, style(0, 158, 115, 6, 2)},
		{"down", true, func(s fleet.Sample) float64 { return float64(s.Down) }, style(213, 94, 0)},
	}
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

func paint(c draw.Canvas, title string, nodes int, points []fleet.Sample) error {
	if len(points) == 0 {
		return errors.New("nothing has happened")
	}
	unit, per := unitOf(points[len(points)-1].At)
	most := 1
	for _, p := range points {
		most = max(most, p.Down)
	}

	above, below := newPlot(), newPlot()
	above.Y.Label.Text, above.Y.Max = "share of nodes (%)", 100
	above.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0"}, {Value: 25, Label: "25"}, {Value: 50, Label: "50"}, {Value: 75, Label: "75"}, {Value: 100, Label: "100"}}
	below.Y.Label.Text, below.Y.Max = "nodes down", float64(most)
	below.Y.Tick.Marker = plot.TickerFunc(wholeTicks)
	below.X.Label.Text = "time since the order (" + unit + ")"
	for _, p := range []*plot.Plot{above, below} {
		p.X.Max = max(points[len(points)-1].At.Seconds()/per, 1e-3)
		p.X.Tick.Marker = plot.TickerFunc(wholeTicks)
		grid := plotter.NewGrid()
		grid.Vertical.Color, grid.Horizontal.Color = color.Gray{Y: 224}, color.Gray{Y: 224}
		p.Add(grid)
	}
	var legends []plot.Legend
	for _, k := range curves(nodes) {
		line, err := plotter.NewLine(steps(points, per, k.of))
		if err != nil {
			return err
		}
		line.LineStyle, line.StepStyle = k.style, plotter.PostStep
		if k.below {
			below.Add(line)
		} else {
			above.Add(line)
		}
		l := plot.NewLegend()
		l.TextStyle.Font, l.Left, l.Top = sans(10), true, true
		l.Add(k.name, line)
		legends = append(legends, l)
	}

	c.SetColor(color.White)
	c.Fill(c.Rectangle.Path())
	c = draw.Crop(c, 6, -12, 6, -6)
	if letters := []rune(title); len(letters) > maxTitle {
		title = string(letters[:maxTitle-1]) + "…"
	}
	style := above.Title.TextStyle
	style.YAlign = -1
	c.FillText(style, vg.Point{X: c.Center().X, Y: c.Max.Y}, title)
	key := draw.Crop(c, 0, 0, 0, -18)
	for i, l := range legends {
		l.Draw(draw.Crop(key, c.Size().X/2+vg.Length(2*i-len(legends))*45, 0, 0, 0))
	}
	tiles := plot.Align([][]*plot.Plot{{above}, {below}}, draw.Tiles{Rows: 2, Cols: 1, PadY: 8}, draw.Crop(c, 0, 0, 0, -36))
	above.Draw(tiles[0][0])
	below.Draw(tiles[1][0])
	return nil
}

func newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	p.Title.TextStyle.Font = sans(11)
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Min = 0
		a.Label.TextStyle.Font, a.Tick.Label.Font = sans(9), sans(9)
	}
	return p
}

// unitOf is the unit that a time is shown in, and how many seconds it has.
func unitOf(d time.Duration) (string, float64) {
	switch {
	case d >= 48*time.Hour:
		return "days", 86400
	case d >= 2*time.Hour:
		return "hours", 3600
	case d >= 2*time.Minute:
		return "minutes", 60
	}
	return "seconds", 1
}

// wholeTicks are at most nine whole numbers, since there is no half of a node.
func wholeTicks(_, most float64) (ticks []plot.Tick) {
	step := 1
	for i := 0; int(most)/step > 8; i++ {
		step = step * []int{20, 25, 20}[i%3] / 10 // 1, 2, 5, 10, …
	}
	for n := 0; n <= int(most); n += step {
		ticks = append(ticks, plot.Tick{Value: float64(n), Label: fmt.Sprint(n)})
	}
	return ticks
}

// steps are the points of a line that changes only at them: those that change nothing are
// left out, but for the last.
func steps(points []fleet.Sample, per float64, of func(fleet.Sample) float64) (line plotter.XYs) {
	for i, p := range points {
		if y := of(p); i == 0 || i == len(points)-1 || y != line[len(line)-1].Y {
			line = append(line, plotter.XY{X: p.At.Seconds() / per, Y: y})
		}
	}
	return line
}
