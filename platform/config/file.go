package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds what is read, should the path name a device or a log.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, reason(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = errors.New("it is larger than " + Bytes(maxFile).String())
	}
	return data, reason(err)
}

// reason drops the path from a file error.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// file reads the configuration file.
func (l *loader) file(path string) {
	if path == "" {
		return
	}
	origin := "file " + path
	data, err := readFile(path)
	if err != nil {
		l.blame("", origin, "cannot be read: "+err.Error())
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return // nothing but comments
	case err != nil:
		l.blame("", origin, strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		l.blame("", origin, "holds more than one document")
		return
	}
	if root := resolve(doc.Content[0]); root.Kind == yaml.MappingNode {
		l.mapping(path, "", root)
	} else if !isNull(root) {
		l.blame("", origin, "does not begin with a key")
	}
}

func (l *loader) mapping(file, path string, node *yaml.Node) {
	seen := map[string]int{}
	secrets := map[*item]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], resolve(node.Content[i+1])
		origin := fmt.Sprintf("file %s:%d", file, name.Line)
		if name.Kind != yaml.ScalarNode {
			l.blame(path, origin, "has a key that is not a name")
			continue
		}
		key := join(path, name.Value)
		if line, twice := seen[key]; twice {
			l.blame(key, origin, fmt.Sprintf("is given twice, first in line %d", line))
			continue
		}
		seen[key] = name.Line
		it := l.byKey[key]
		// A name with a dot is not the path: "a.b: 1" is no way to write "a: {b: 1}".
		dotted := strings.Contains(name.Value, ".") && path == ""
		switch {
		case it != nil && dotted:
			section, last := key[:strings.LastIndexByte(key, '.')], key[strings.LastIndexByte(key, '.')+1:]
			l.blame(key, origin, fmt.Sprintf("is written %q below %q", last+":", section+":"))
		case it != nil && secrets[it]:
			l.blame(it.key, origin, "is given together with "+it.keyFile())
		case it != nil:
			secrets[it] = it.secret
			l.node(it, key != it.key, value, origin)
		case l.sections[key] && key != "" && !dotted:
			l.section(file, key, value, origin)
		default:
			l.unknownKey(key, origin)
		}
	}
}

func (l *loader) section(file, key string, value *yaml.Node, origin string) {
	switch {
	case value.Kind == yaml.MappingNode:
		l.mapping(file, key, value)
	case !isNull(value):
		l.blame(key, origin, "is a section: it wants keys below it")
	}
}

func (l *loader) node(it *item, file bool, value *yaml.Node, origin string) {
	in, err := toInput(value)
	if err == nil && file && in.form != formText {
		err = errors.New("wants the path of a file")
	}
	if err != nil {
		l.blame(it.key, origin, err.Error())
		return
	}
	l.put(it, finding{input: in, origin: origin, file: file})
}

var errNoValue = errors.New(`has no value (write "" for an empty one)`)

// toInput takes a value out of the file without its YAML type: what a text
// means is for the setting to say, so that "no" or 010 arrive as written.
func toInput(node *yaml.Node) (input, error) {
	switch {
	case isNull(node):
		return input{}, errNoValue
	case node.Kind == yaml.SequenceNode:
		in := input{form: formList}
		for _, n := range node.Content {
			n = resolve(n)
			if n.Kind != yaml.ScalarNode || isNull(n) {
				return in, errors.New("wants a list of plain values")
			}
			in.list = append(in.list, n.Value)
		}
		return in, nil
	case node.Kind == yaml.MappingNode:
		in := input{form: formMap, dict: map[string]string{}}
		for i := 0; i+1 < len(node.Content); i += 2 {
			k, v := resolve(node.Content[i]), resolve(node.Content[i+1])
			if k.Kind != yaml.ScalarNode || v.Kind != yaml.ScalarNode || isNull(v) {
				return in, errors.New("wants names with plain values")
			}
			if _, twice := in.dict[k.Value]; twice {
				return in, fmt.Errorf("has the name %s twice", quote(k.Value))
			}
			in.dict[k.Value] = v.Value
		}
		return in, nil
	}
	return input{text: node.Value}, nil
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }
