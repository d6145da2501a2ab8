package mailing

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"strconv"
)

// The chart in CSS pixels. It is drawn with twice as many, for fine screens.
const (
	chartWidth, chartHeight = 552, 210
	chartScale              = 2
)

// Colours that can be read on a white and on a black page: the background is
// transparent.
var (
	chartBar   = color.NRGBA{0x3b, 0x7d, 0xdd, 0xff}
	chartPeak  = color.NRGBA{0x1f, 0x5f, 0xc4, 0xff}
	chartGrid  = color.NRGBA{0x8d, 0x97, 0xa5, 0x55}
	chartLabel = color.NRGBA{0x7d, 0x88, 0x98, 0xff}
)

// reportChart draws a bar for each hour, as PNG. clock gives the hour of the
// day that the clocks show.
func reportChart(hours []int64, clock func(hour int) int) ([]byte, error) {
	c := canvas{image.NewNRGBA(image.Rect(0, 0, chartWidth*chartScale, chartHeight*chartScale))}
	var most int64
	for _, n := range hours {
		most = max(most, n)
	}
	step := chartStep(most)
	lines := max((most+step-1)/step, 1)
	const top, bottom, right = 14.0, chartHeight - 24.0, chartWidth - 2.0
	left := 0.0
	for i := int64(0); i <= lines; i++ {
		left = max(left, textWidth(shortNumber(i*step))+8)
	}
	y := func(n int64) float64 { return bottom - (bottom-top)*float64(n)/float64(lines*step) }
	for i := int64(0); i <= lines; i++ {
		c.rect(left, y(i*step)-0.5, right, y(i*step)+0.5, 0, chartGrid)
		label := shortNumber(i * step)
		c.text(left-8-textWidth(label), y(i*step)-glyphHeight/2, label, chartLabel)
	}
	pitch := (right - left) / float64(max(len(hours), 1))
	for i, n := range hours {
		x := left + pitch*float64(i)
		if n > 0 {
			shade := chartBar
			if n == most {
				shade = chartPeak
			}
			c.rect(x+pitch*0.16, min(y(n), bottom-1.5), x+pitch*0.84, bottom, 3, shade)
		}
		if hour := clock(i); hour%3 == 0 && (i == 0 || clock(i-1) != hour) {
			label := fmt.Sprintf("%02d:00", hour)
			c.text(x+pitch/2-textWidth(label)/2, bottom+9, label, chartLabel)
		}
	}
	var out bytes.Buffer
	err := png.Encode(&out, c.img)
	return out.Bytes(), err
}

// chartStep is the distance of the lines: a round number that gives at most
// five of them.
func chartStep(most int64) int64 {
	for unit := int64(1); ; unit *= 10 {
		for _, n := range []int64{1, 2, 5} {
			if n*unit*4 >= most || unit > math.MaxInt64/100 {
				return n * unit
			}
		}
	}
}

// shortNumber writes 1500 as 1.5k.
func shortNumber(n int64) string {
	for _, unit := range []struct {
		size int64
		sign string
	}{{1_000_000, "M"}, {1_000, "k"}} {
		if n >= unit.size {
			return strconv.FormatFloat(float64(n)/float64(unit.size), 'g', 4, 64) + unit.sign
		}
	}
	return strconv.FormatInt(n, 10)
}

// canvas paints with soft edges. Its unit is the CSS pixel.
type canvas struct{ img *image.NRGBA }

// dot paints a pixel of the picture as far as it is covered.
func (c canvas) dot(x, y int, cover float64, shade color.NRGBA) {
	if cover <= 0 || !image.Pt(x, y).In(c.img.Rect) {
		return
	}
	a := min(cover, 1) * float64(shade.A) / 255
	old := c.img.NRGBAAt(x, y)
	b := float64(old.A) / 255 * (1 - a)
	mix := func(over, under uint8) uint8 {
		return uint8(math.Round((float64(over)*a + float64(under)*b) / (a + b)))
	}
	c.img.SetNRGBA(x, y, color.NRGBA{mix(shade.R, old.R), mix(shade.G, old.G), mix(shade.B, old.B), uint8(math.Round((a + b) * 255))})
}

// rect paints a rectangle whose upper corners have a radius.
func (c canvas) rect(x0, y0, x1, y1, radius float64, shade color.NRGBA) {
	x0, y0, x1, y1, radius = x0*chartScale, y0*chartScale, x1*chartScale, y1*chartScale, radius*chartScale
	radius = min(radius, y1-y0)
	for y := int(y0); y < int(math.Ceil(y1)); y++ {
		for x := int(x0); x < int(math.Ceil(x1)); x++ {
			px, py := float64(x), float64(y)
			cover := (min(px+1, x1) - max(px, x0)) * (min(py+1, y1) - max(py, y0))
			if mx, my := px+0.5, py+0.5; my < y0+radius && (mx < x0+radius || mx > x1-radius) {
				dx := max(x0+radius-mx, mx-(x1-radius))
				cover *= min(max(radius+0.5-math.Hypot(dx, y0+radius-my), 0), 1)
			}
			c.dot(x, y, cover, shade)
		}
	}
}

// The letters of the chart are strokes on a grid of 4 by 6.
const (
	glyphHeight = 8.4 // of a digit, CSS pixels
	glyphUnit   = glyphHeight / 6
	glyphPen    = 0.62 // half the width of the pen
)

type stroke [][2]float64

// arc is a part of an ellipse; angles in degrees, clockwise from the right.
func arc(x, y, rx, ry, from, to float64) (s stroke) {
	for i := range 13 {
		a := (from + (to-from)*float64(i)/12) * math.Pi / 180
		s = append(s, [2]float64{x + rx*math.Cos(a), y + ry*math.Sin(a)})
	}
	return s
}

// glyph gives the strokes and the width of a letter.
func glyph(r rune) ([]stroke, float64) {
	switch r {
	case '0':
		return []stroke{arc(2, 3, 1.8, 3, 0, 360)}, 4
	case '1':
		return []stroke{{{0.8, 1.2}, {2.3, 0}, {2.3, 6}}}, 4
	case '2':
		return []stroke{append(arc(2, 1.7, 1.75, 1.7, 190, 395), [2]float64{0.2, 6}, [2]float64{3.9, 6})}, 4
	case '3':
		return []stroke{arc(1.9, 1.5, 1.6, 1.5, 200, 450), arc(1.9, 4.4, 1.8, 1.6, 270, 520)}, 4
	case '4':
		return []stroke{{{3, 6}, {3, 0}, {0.1, 4.3}, {4, 4.3}}}, 4
	case '5':
		return []stroke{append(stroke{{3.6, 0}, {0.7, 0}, {0.45, 2.75}}, arc(1.9, 4.1, 1.85, 1.9, 225, 510)...)}, 4
	case '6':
		return []stroke{arc(2, 4.15, 1.8, 1.85, 0, 360), append(stroke{{3.1, 0}}, arc(2.9, 4.3, 2.7, 3.4, 225, 180)...)}, 4
	case '7':
		return []stroke{{{0.2, 0}, {3.9, 0}, {1.5, 6}}}, 4
	case '8':
		return []stroke{arc(2, 1.45, 1.5, 1.45, 0, 360), arc(2, 4.45, 1.8, 1.55, 0, 360)}, 4
	case '9':
		return []stroke{arc(2, 1.85, 1.8, 1.85, 0, 360), append(stroke{{0.9, 6}}, arc(1.1, 1.7, 2.7, 3.4, 45, 0)...)}, 4
	case ':':
		return []stroke{{{0.6, 2}, {0.6, 2}}, {{0.6, 5.6}, {0.6, 5.6}}}, 1.2
	case '.':
		return []stroke{{{0.6, 5.9}, {0.6, 5.9}}}, 1.2
	case 'k':
		return []stroke{{{0.4, 0}, {0.4, 6}}, {{3, 2.2}, {0.5, 4.4}}, {{1.5, 3.6}, {3.2, 6}}}, 3.4
	case 'M':
		return []stroke{{{0.3, 6}, {0.3, 0}, {2.4, 3.6}, {4.5, 0}, {4.5, 6}}}, 4.8
	}
	return nil, 2
}

const glyphGap = 1.25

// textWidth is how wide a text is, in CSS pixels.
func textWidth(text string) (w float64) {
	for _, r := range text {
		_, width := glyph(r)
		w += width + glyphGap
	}
	return (w - glyphGap) * glyphUnit
}

// text writes from the upper left corner.
func (c canvas) text(x, y float64, text string, shade color.NRGBA) {
	for _, r := range text {
		strokes, width := glyph(r)
		c.strokes(x, y, strokes, width, shade)
		x += (width + glyphGap) * glyphUnit
	}
}

func (c canvas) strokes(x, y float64, strokes []stroke, width float64, shade color.NRGBA) {
	const margin = 2.0
	for py := int((y - margin) * chartScale); py < int((y+glyphHeight+margin)*chartScale); py++ {
		for px := int((x - margin) * chartScale); px < int((x+width*glyphUnit+margin)*chartScale); px++ {
			// How far the pen's line is from the middle of the pixel.
			gx, gy := ((float64(px)+0.5)/chartScale-x)/glyphUnit, ((float64(py)+0.5)/chartScale-y)/glyphUnit
			away := math.Inf(1)
			for _, s := range strokes {
				for i := 1; i < len(s); i++ {
					away = min(away, distance(gx, gy, s[i-1], s[i]))
				}
			}
			c.dot(px, py, (glyphPen-away*glyphUnit)*chartScale+0.5, shade)
		}
	}
}

// distance of a point from a line between two others.
func distance(x, y float64, a, b [2]float64) float64 {
	dx, dy := b[0]-a[0], b[1]-a[1]
	t := 0.0
	if square := dx*dx + dy*dy; square > 0 {
		t = min(max(((x-a[0])*dx+(y-a[1])*dy)/square, 0), 1)
	}
	return math.Hypot(x-a[0]-t*dx, y-a[1]-t*dy)
}
