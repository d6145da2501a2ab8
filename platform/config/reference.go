package config

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Markdown is the reference of the settings: a heading and a table for each
// section, in order; sections of one name share a table. It panics on a struct
// that Load would refuse.
func Markdown(sections ...Section) string {
	c := must(sections)
	var b strings.Builder
	for i, name := range names(c.items) {
		title := name
		if name == "" {
			title = "General"
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString("## " + title + "\n\n")
		b.WriteString("| Key | Type | Default | Environment | Flag | Description |\n")
		b.WriteString("|---|---|---|---|---|---|\n")
		for _, it := range c.items {
			if it.section == name {
				b.WriteString(it.row())
			}
		}
	}
	return b.String()
}

func (it *item) row() string {
	env, flag, preset := code(it.env), "", code(it.text(it.preset))
	if it.secret {
		env += ", " + code(it.envFile())
	}
	if it.flag != "" {
		flag = code("--" + it.flag)
	}
	row := "|"
	for _, cell := range []string{code(it.key), it.typeName(), preset, env, flag, strings.ReplaceAll(it.doc, "<", `\<`)} {
		if cell != "" {
			row += " " + strings.ReplaceAll(cell, "|", `\|`)
		}
		row += " |"
	}
	return row + "\n"
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func names(items []*item) []string {
	var list []string
	for _, it := range items {
		if !slices.Contains(list, it.section) {
			list = append(list, it.section)
		}
	}
	return list
}

// SampleYAML is a configuration file with every key commented out at its
// default, below a line that says what it is for. Loaded as it is, it changes
// nothing; taking the "#" from a line that has no space after it sets that key.
// It panics on a struct that Load would refuse.
func SampleYAML(sections ...Section) string {
	root := &branch{}
	for _, it := range must(sections).items {
		root.add(strings.Split(it.key, "."), it)
	}
	var b strings.Builder
	root.write(&b, "")
	return strings.TrimPrefix(b.String(), "\n")
}

// branch is a section of the sample: its keys come before its sections.
type branch struct {
	name     string
	items    []*item
	branches []*branch
}

func (br *branch) add(path []string, it *item) {
	if len(path) == 1 {
		br.items = append(br.items, it)
		return
	}
	i := slices.IndexFunc(br.branches, func(b *branch) bool { return b.name == path[0] })
	if i < 0 {
		i = len(br.branches)
		br.branches = append(br.branches, &branch{name: path[0]})
	}
	br.branches[i].add(path[1:], it)
}

func (br *branch) write(b *strings.Builder, indent string) {
	for i, it := range br.items {
		if i > 0 || indent == "" {
			b.WriteByte('\n')
		}
		doc := it.doc
		if len(it.enum) > 0 {
			doc += " One of: " + strings.Join(it.enum, ", ") + "."
		}
		name := it.key[strings.LastIndexByte(it.key, '.')+1:]
		if it.secret {
			doc += " Secret; " + name + "_file names a file that holds it."
		}
		if doc = strings.TrimSpace(doc); doc != "" {
			b.WriteString(indent + "# " + doc + "\n")
		}
		b.WriteString(indent + "#" + name + ": " + it.yaml() + "\n")
	}
	for _, sub := range br.branches {
		b.WriteString("\n" + indent + sub.name + ":\n")
		sub.write(b, indent+"  ")
	}
}

// yaml is the default on one line.
func (it *item) yaml() string {
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: it.text(it.preset)}
	scalar := func(s string) *yaml.Node {
		n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
		if strings.ContainsAny(s, "\n\r") {
			n.Style = yaml.DoubleQuotedStyle
		}
		return n
	}
	switch {
	case it.kind == kindList && !it.secret:
		node = &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, e := range strs(it.preset) {
			node.Content = append(node.Content, scalar(e))
		}
	case it.kind == kindMap && !it.secret:
		node = &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
		for _, k := range sortedKeys(it.preset) {
			node.Content = append(node.Content, scalar(k.String()), scalar(it.preset.MapIndex(k).String()))
		}
	case it.secret:
		node = scalar("")
	case it.kind == kindString:
		node = scalar(it.text(it.preset))
	}
	out, err := yaml.Marshal(node)
	if err != nil { // cannot be: the node is made of plain texts
		return `""`
	}
	return strings.TrimSpace(string(out))
}
