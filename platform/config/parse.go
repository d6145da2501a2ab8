package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// input is a value as it was given: a text, or from the file a list or a map.
type input struct {
	text string
	list []string
	dict map[string]string
	form form
}

type form int

const (
	formText form = iota
	formList
	formMap
)

func (f form) String() string { return [...]string{"single value", "list", "map"}[f] }

// parse turns what was given into a value of the field's type. The error is a
// reason without the key, and without the value if that is secret.
func (it *item) parse(in input) (reflect.Value, error) {
	out := reflect.New(it.target.Type()).Elem()
	switch it.kind {
	case kindList:
		return out, it.parseList(in, out)
	case kindMap:
		return out, it.parseMap(in, out)
	}
	if in.form != formText {
		return out, fmt.Errorf("wants a single value, not a %s", in.form)
	}
	if err := parseScalar(it.kind, in.text, out); err != nil {
		return out, it.blame(in.text, err)
	}
	// An empty text is allowed where the default is empty: it means "not set".
	if len(it.enum) > 0 && !slices.Contains(it.enum, in.text) && (in.text != "" || !it.emptyPreset()) {
		return out, it.blame(in.text, it.errEnum())
	}
	return out, nil
}

func (it *item) emptyPreset() bool { return !it.preset.IsValid() || it.preset.IsZero() }

func (it *item) errEnum() error { return errors.New("is not one of " + strings.Join(it.enum, ", ")) }

// blame puts the value before the reason, unless it is secret.
func (it *item) blame(text string, reason error) error {
	if it.secret {
		return fmt.Errorf("the value %w", reason)
	}
	return fmt.Errorf("%s %w", quote(text), reason)
}

// quote keeps a value on the line, whatever is in it, and short.
func quote(text string) string {
	const limit = 60
	if r := []rune(text); len(r) > limit {
		text = string(r[:limit]) + "…"
	}
	return strconv.Quote(text)
}

func (it *item) parseList(in input, out reflect.Value) error {
	list := in.list
	switch in.form {
	case formMap:
		return errors.New("wants a list, not a map")
	case formText:
		list = split(in.text)
	}
	s := reflect.MakeSlice(out.Type(), len(list), len(list))
	for i, e := range list {
		if len(it.enum) > 0 && !slices.Contains(it.enum, e) {
			return it.blame(e, it.errEnum())
		}
		s.Index(i).SetString(e)
	}
	if len(list) > 0 {
		out.Set(s)
	}
	return nil
}

func (it *item) parseMap(in input, out reflect.Value) error {
	dict := in.dict
	switch in.form {
	case formList:
		return errors.New("wants a map, not a list")
	case formText:
		dict = map[string]string{}
		for _, pair := range split(in.text) {
			k, v, ok := strings.Cut(pair, "=")
			if !ok {
				return it.blame(pair, errors.New("is not of the form name=value"))
			}
			dict[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	if len(dict) == 0 {
		return nil
	}
	m := reflect.MakeMapWithSize(out.Type(), len(dict))
	for k, v := range dict {
		m.SetMapIndex(reflect.ValueOf(k).Convert(out.Type().Key()), reflect.ValueOf(v).Convert(out.Type().Elem()))
	}
	out.Set(m)
	return nil
}

// split reads a comma list; elements are trimmed and empty ones dropped.
func split(text string) []string {
	var list []string
	for e := range strings.SplitSeq(text, ",") {
		if e = strings.TrimSpace(e); e != "" {
			list = append(list, e)
		}
	}
	return list
}

func parseScalar(k kind, text string, out reflect.Value) error {
	if k == kindString || k == kindSecret {
		out.SetString(text)
		return nil
	}
	text = strings.TrimSpace(text)
	switch k {
	case kindBool:
		b, err := parseBool(text)
		out.SetBool(b)
		return err
	case kindInt:
		n, err := strconv.ParseInt(text, 10, out.Type().Bits())
		if err != nil {
			return errNumber(err, "is not a whole number")
		}
		out.SetInt(n)
	case kindUint:
		n, err := strconv.ParseUint(text, 10, out.Type().Bits())
		if err != nil {
			return errNumber(err, "is not a whole number from 0")
		}
		out.SetUint(n)
	case kindFloat:
		f, err := strconv.ParseFloat(text, out.Type().Bits())
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return errNumber(err, "is not a number")
		}
		out.SetFloat(f)
	case kindDuration:
		d, err := parseDuration(text)
		out.SetInt(int64(d))
		return err
	case kindBytes:
		b, err := ParseBytes(text)
		out.SetInt(int64(b))
		return err
	}
	return nil
}

func errNumber(err error, text string) error {
	if errors.Is(err, strconv.ErrRange) {
		return errors.New("is out of range")
	}
	return errors.New(text)
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	}
	return false, errors.New("is not true or false")
}

const day = 24 * time.Hour

// parseDuration is time.ParseDuration plus a leading count of whole days, since
// retention is thought of in days.
func parseDuration(text string) (time.Duration, error) {
	var d time.Duration
	rest := text
	if days, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 64)
		if err != nil || n > int64(math.MaxInt64/day) || n < int64(math.MinInt64/day) || n < 0 && after != "" {
			return 0, errDuration(text)
		}
		d, rest = time.Duration(n)*day, after
		if rest == "" {
			return d, nil
		}
		if strings.ContainsAny(rest, "+-") {
			return 0, errDuration(text)
		}
	}
	r, err := time.ParseDuration(rest)
	if err != nil || r > 0 && d > math.MaxInt64-r {
		return 0, errDuration(text)
	}
	return d + r, nil
}

func errDuration(text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return errors.New("is a duration without a unit; write 20s, 1h30m or 30d")
	}
	return errors.New("is not a duration such as 20s, 1h30m or 30d")
}

// format is the opposite of parse.
func format(k kind, v reflect.Value) string {
	switch k {
	case kindBool:
		return strconv.FormatBool(v.Bool())
	case kindInt:
		return strconv.FormatInt(v.Int(), 10)
	case kindUint:
		return strconv.FormatUint(v.Uint(), 10)
	case kindFloat:
		return strconv.FormatFloat(v.Float(), 'g', -1, v.Type().Bits())
	case kindDuration:
		return formatDuration(time.Duration(v.Int()))
	case kindBytes:
		return Bytes(v.Int()).String()
	case kindList:
		return strings.Join(strs(v), ",")
	case kindMap:
		pairs := make([]string, 0, v.Len())
		for _, k := range sortedKeys(v) {
			pairs = append(pairs, k.String()+"="+v.MapIndex(k).String())
		}
		return strings.Join(pairs, ",")
	}
	return v.String()
}

func strs(v reflect.Value) []string {
	list := make([]string, v.Len())
	for i := range list {
		list[i] = v.Index(i).String()
	}
	return list
}

func sortedKeys(v reflect.Value) []reflect.Value {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

func formatDuration(d time.Duration) string {
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
