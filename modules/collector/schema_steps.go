package collector

import (
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// A schema's references can multiply what has to be checked without end: two
// to the same definition, which has two to the next. How much that can become
// is counted before anything is checked, so that no schema can hold up the
// product.
const (
	// maxSchemaSteps is how many subschemas a schema may hold against one value
	// and those it lies in.
	maxSchemaSteps = 20_000
	// maxSteps is how many checks one event may cost: its values times that.
	maxSteps = 10_000_000
)

// endless stands for more steps than any limit.
const endless = 1 << 40

// stepsOf gives the most subschemas that s may hold against one value of an
// event's data and the values it lies in; endless if s refers to itself in a
// circle.
func stepsOf(s *jsonschema.Schema) int {
	c := stepCounter{root: s, known: map[place]int{}}
	return c.steps(s, maxDepth)
}

// stepCounter counts the steps of one schema.
type stepCounter struct {
	root  *jsonschema.Schema
	known map[place]int
	deep  int // subschemas that lead to the one being counted
}

// place is a subschema and how many levels the value it meets may still have.
type place struct {
	schema *jsonschema.Schema
	levels int
}

func (c *stepCounter) steps(s *jsonschema.Schema, levels int) int {
	if s == nil || levels < 0 {
		return 0
	}
	at := place{s, levels}
	if n, ok := c.known[at]; ok {
		return n
	}
	if c.deep++; c.deep > maxSchemaSteps {
		return endless
	}
	defer func() { c.deep-- }()
	c.known[at] = endless // until it is known: who asks meanwhile is in a circle
	n := 1 + c.beside(s, levels) + c.within(s, levels-1)
	c.known[at] = min(n, endless)
	return c.known[at]
}

// beside counts the subschemas of s that meet the same value.
func (c *stepCounter) beside(s *jsonschema.Schema, levels int) int {
	n := c.sum(levels, s.Ref, s.Not, s.If, s.Then, s.Else, s.ContentSchema) +
		c.sum(levels, s.AllOf...) + c.sum(levels, s.AnyOf...) + c.sum(levels, s.OneOf...)
	for _, sub := range s.DependentSchemas {
		n += c.steps(sub, levels)
	}
	for _, sub := range s.Dependencies {
		n += c.steps(schemaIn(sub), levels)
	}
	// What these mean shows only when they are followed: the whole is the most.
	if s.RecursiveRef != nil {
		n += c.most(levels, s.RecursiveRef, c.root)
	}
	if s.DynamicRef != nil {
		n += c.most(levels, s.DynamicRef.Ref, c.root)
	}
	return n
}

// within counts the subschemas of s that meet the same value one level below.
// It lies in an object or in a list.
func (c *stepCounter) within(s *jsonschema.Schema, levels int) int {
	named, matched := 0, 0
	for _, sub := range s.Properties {
		named = max(named, c.steps(sub, levels))
	}
	for _, sub := range s.PatternProperties {
		matched += c.steps(sub, levels)
	}
	object := c.steps(s.PropertyNames, levels) +
		max(named+matched, c.most(levels, schemaIn(s.AdditionalProperties), s.UnevaluatedProperties))

	list, _ := s.Items.([]*jsonschema.Schema)
	array := c.steps(s.Contains, levels) +
		c.most(levels, slices.Concat(s.PrefixItems, list, []*jsonschema.Schema{schemaIn(s.Items), schemaIn(s.AdditionalItems), s.Items2020, s.UnevaluatedItems})...)
	return max(object, array)
}

func (c *stepCounter) sum(levels int, all ...*jsonschema.Schema) (n int) {
	for _, sub := range all {
		n += c.steps(sub, levels)
	}
	return n
}

func (c *stepCounter) most(levels int, either ...*jsonschema.Schema) (n int) {
	for _, sub := range either {
		n = max(n, c.steps(sub, levels))
	}
	return n
}

// schemaIn gives the schema that a keyword with several types holds, if any.
func schemaIn(keyword any) *jsonschema.Schema {
	s, _ := keyword.(*jsonschema.Schema)
	return s
}
