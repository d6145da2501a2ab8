package mailing

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"text/template/parse"
	"unicode/utf8"

	"switchboard/platform/errs"
)

// maxText bounds a campaign's text, and what is rendered of it, in bytes.
const maxText = 4096

// textVariables are what a text may say besides .attributes.
var textVariables = map[string]func(*client) string{
	"tag":           func(c *client) string { return c.Tag },
	"operator_code": func(c *client) string { return c.OperatorCode },
	"phone_number":  func(c *client) string { return c.PhoneNumber },
}

// textFunctions are what a text may call, with their least and greatest number
// of arguments. None of them loops, allocates more than its arguments, or fails.
var textFunctions = map[string]struct{ least, most int }{
	"default": {2, 2}, "eq": {2, 9}, "ne": {2, 2}, "not": {1, 1}, "and": {1, 9}, "or": {1, 9},
}

// checkText tells what is wrong with the text of a campaign: an Invalid error
// at body.text.
func checkText(text string) error {
	_, err := parseText(text)
	return err
}

// renderText gives the text of a campaign as a client gets it. It is Invalid if
// the text is, or what it makes is longer than 4096 bytes.
func renderText(text string, c *client) (string, error) {
	t, err := parseText(text)
	if err != nil {
		return "", err
	}
	return t.render(c)
}

// campaignText is a text that was checked. It is safe for concurrent use.
//
// The notation is that of text/template without its power: the tree is checked
// against a list of what is allowed and walked here, so that a text can neither
// loop nor call anything, and rendering is linear in its length.
type campaignText struct{ root *parse.ListNode }

// parseText checks a text, once for many clients.
func parseText(text string) (*campaignText, error) {
	fail := func(format string, args ...any) (*campaignText, error) {
		return nil, errs.InvalidFields("the text is not valid", errs.Field{Location: "body.text", Message: fmt.Sprintf(format, args...)})
	}
	switch {
	case strings.TrimSpace(text) == "":
		return fail("must not be empty")
	case len(text) > maxText:
		return fail("is longer than %d bytes", maxText)
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return fail("must be UTF-8 without NUL")
	}
	functions := map[string]any{}
	for name := range textFunctions {
		functions[name] = true
	}
	const name = "text"
	trees, err := parse.Parse(name, text, "{{", "}}", functions)
	if err != nil {
		return fail("%s", shorten(strings.TrimPrefix(err.Error(), "template: "+name+":"), 200))
	}
	tree := trees[name]
	if len(trees) != 1 || tree == nil || tree.Root == nil {
		return fail("define and block are not allowed")
	}
	if parse.IsEmptyTree(tree.Root) {
		return fail("must not be empty")
	}
	if err := checkNode(tree.Root); err != nil {
		return fail("%s", shorten(err.Error(), 200))
	}
	return &campaignText{tree.Root}, nil
}

// shorten cuts a text to so many bytes, between characters.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + "…"
}

// checkNode tells what a node is or holds that is not allowed.
func checkNode(node parse.Node) error {
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil { // an if without else
			return nil
		}
		for _, one := range n.Nodes {
			if err := checkNode(one); err != nil {
				return err
			}
		}
		return nil
	case *parse.TextNode, *parse.CommentNode:
		return nil
	case *parse.ActionNode:
		return checkPipe(n.Pipe)
	case *parse.IfNode:
		for _, part := range []parse.Node{n.Pipe, n.List, n.ElseList} {
			if err := checkNode(part); err != nil {
				return err
			}
		}
		return nil
	case *parse.PipeNode:
		return checkPipe(n)
	case *parse.FieldNode:
		return checkVariable(n.Ident)
	case *parse.StringNode, *parse.BoolNode:
		return nil
	case *parse.NumberNode:
		if !n.IsFloat {
			return fmt.Errorf("%s is not a number", n)
		}
		return nil
	case *parse.RangeNode:
		return fmt.Errorf("range is not allowed")
	case *parse.WithNode:
		return fmt.Errorf("with is not allowed")
	case *parse.TemplateNode:
		return fmt.Errorf("template is not allowed")
	case *parse.IdentifierNode:
		return fmt.Errorf("%s needs arguments", n.Ident)
	}
	return fmt.Errorf("%s is not allowed: there are .attributes.…, .tag, .operator_code, .phone_number, if, else and default", node)
}

func checkVariable(path []string) error {
	if path[0] == "attributes" {
		if len(path) == 1 {
			return fmt.Errorf(".attributes needs the name of one: .attributes.name")
		}
		return nil
	}
	if textVariables[path[0]] == nil {
		return fmt.Errorf("no variable .%s: there are .attributes.…, .tag, .operator_code, .phone_number", path[0])
	}
	if len(path) > 1 {
		return fmt.Errorf(".%s has no parts", path[0])
	}
	return nil
}

func checkPipe(pipe *parse.PipeNode) error {
	if len(pipe.Decl) > 0 {
		return fmt.Errorf("variables of its own are not allowed: %s", pipe.Decl[0])
	}
	for i, cmd := range pipe.Cmds {
		piped := min(i, 1)
		function, called := cmd.Args[0].(*parse.IdentifierNode)
		if !called {
			if len(cmd.Args) > 1 || piped > 0 {
				return fmt.Errorf("%s is not a function", cmd.Args[0])
			}
			if err := checkNode(cmd.Args[0]); err != nil {
				return err
			}
			continue
		}
		args := cmd.Args[1:]
		if takes := textFunctions[function.Ident]; len(args)+piped < takes.least || len(args)+piped > takes.most {
			return fmt.Errorf("%s takes %d to %d arguments", function.Ident, takes.least, takes.most)
		}
		for _, arg := range args {
			if err := checkNode(arg); err != nil {
				return err
			}
		}
	}
	return nil
}

// render gives the text as a client gets it. It is Invalid if it is longer than
// 4096 bytes. An attribute that the client has not is an empty text.
func (t *campaignText) render(c *client) (string, error) {
	var out strings.Builder
	if !renderList(&out, t.root, c) {
		return "", errs.New(errs.Invalid, "the text for the client is longer than %d bytes", maxText)
	}
	return out.String(), nil
}

// renderList writes a list, and stops when it gets too long.
func renderList(out *strings.Builder, list *parse.ListNode, c *client) bool {
	if list == nil {
		return true
	}
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *parse.TextNode:
			out.Write(n.Text)
		case *parse.ActionNode:
			text := shownValue(evalPipe(n.Pipe, c))
			if out.Len()+len(text) > maxText {
				return false
			}
			out.WriteString(text)
		case *parse.IfNode:
			branch := n.ElseList
			if truth(evalPipe(n.Pipe, c)) {
				branch = n.List
			}
			if !renderList(out, branch, c) {
				return false
			}
		}
	}
	return out.Len() <= maxText
}

func evalPipe(pipe *parse.PipeNode, c *client) (value any) {
	for i, cmd := range pipe.Cmds {
		function, called := cmd.Args[0].(*parse.IdentifierNode)
		if !called {
			value = evalNode(cmd.Args[0], c)
			continue
		}
		args := make([]any, 0, len(cmd.Args))
		for _, arg := range cmd.Args[1:] {
			args = append(args, evalNode(arg, c))
		}
		if i > 0 {
			args = append(args, value)
		}
		value = call(function.Ident, args)
	}
	return value
}

func evalNode(node parse.Node, c *client) any {
	switch n := node.(type) {
	case *parse.PipeNode:
		return evalPipe(n, c)
	case *parse.FieldNode:
		if n.Ident[0] == "attributes" {
			return attribute(c.Attributes, n.Ident[1:])
		}
		return textVariables[n.Ident[0]](c)
	case *parse.StringNode:
		return n.Text
	case *parse.BoolNode:
		return n.True
	case *parse.NumberNode:
		return n.Float64
	}
	return nil
}

// attribute follows names into objects; nil if there is no such thing.
func attribute(value any, path []string) any {
	for _, name := range path {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[name]
	}
	return value
}

func call(function string, args []any) any {
	switch function {
	case "default": // default "friend" .attributes.name
		if truth(args[1]) {
			return args[1]
		}
		return args[0]
	case "eq":
		for _, other := range args[1:] {
			if same(args[0], other) {
				return true
			}
		}
		return false
	case "ne":
		return !same(args[0], args[1])
	case "not":
		return !truth(args[0])
	}
	for _, arg := range args[:len(args)-1] { // and, or
		if truth(arg) == (function == "or") {
			return arg
		}
	}
	return args[len(args)-1]
}

// truth tells whether there is something: not nil, false, zero or empty.
func truth(value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case string:
		return v != ""
	case bool:
		return v
	case float64:
		return v != 0
	case json.Number:
		f, err := v.Float64()
		return err != nil || f != 0
	case map[string]any:
		return len(v) > 0
	case []any:
		return len(v) > 0
	}
	return !reflect.ValueOf(value).IsZero()
}

// same compares values as they are shown, so that "5" is 5. Lists and objects
// are the same as nothing.
func same(a, b any) bool { return scalar(a) && scalar(b) && shownValue(a) == shownValue(b) }

func scalar(value any) bool {
	switch value.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

// shownValue is an attribute as a text.
func shownValue(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case json.Number:
		return v.String()
	}
	text, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	return string(text)
}
