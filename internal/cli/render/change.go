package render

import (
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Change is what AppendChange and AppendChangeText show: a row's new value, or that it is gone.
type Change struct {
	*datav1.WatchResponse_Change

	Columns    []*datav1.Column
	KeyColumns []string
	// Bookmark is where the watch is after the change; empty before the last change of a commit.
	Bookmark string
}

// AppendChange appends a change as one JSON object, without a line feed. Values have the form that AppendResult gives them.
func AppendChange(dst []byte, c Change) []byte {
	dst = append(dst, `{"op":`...)
	dst = appendString(dst, c.op())
	dst = append(dst, `,"key":{`...)
	for i, v := range c.GetKey() {
		dst = appendComma(dst, i)
		dst = appendString(dst, c.KeyColumns[i])
		dst = append(dst, ':')
		dst = appendValue(dst, v)
	}
	dst = append(dst, '}')
	if c.GetRow() != nil {
		dst = append(dst, `,"row":{`...)
		for i, v := range c.GetRow().GetValues() {
			dst = appendComma(dst, i)
			dst = appendString(dst, c.Columns[i].GetName())
			dst = append(dst, ':')
			dst = appendValue(dst, v)
		}
		dst = append(dst, '}')
	}
	return append(appendBookmark(dst, c.Bookmark), '}')
}

// AppendProgress appends, as AppendChange does, where a watch is and what it takes the table for.
func AppendProgress(dst []byte, bookmark, schema string) []byte {
	dst = appendBookmark(append(dst, `{"op":"progress"`...), bookmark)
	return append(appendString(append(dst, `,"schema":`...), schema), '}')
}

func appendBookmark(dst []byte, bookmark string) []byte {
	if bookmark == "" {
		return dst
	}
	return appendString(append(dst, `,"bookmark":`...), bookmark)
}

// AppendChangeText appends a change as a line for people, without a line feed.
func AppendChangeText(dst []byte, c Change) []byte {
	dst = append(dst, c.op()...)
	if c.GetRow() == nil {
		for i, v := range c.GetKey() {
			dst = appendPair(dst, c.KeyColumns[i], v)
		}
		return dst
	}
	for i, v := range c.GetRow().GetValues() {
		dst = appendPair(dst, c.Columns[i].GetName(), v)
	}
	return dst
}

func appendPair(dst []byte, name string, v *datav1.Value) []byte {
	dst = append(append(append(dst, ' '), name...), '=')
	return appendValue(dst, v)
}

func (c *Change) op() string {
	switch {
	case c.GetRow() != nil:
		return "put"
	case c.GetLeft():
		return "left"
	default:
		return "delete"
	}
}
