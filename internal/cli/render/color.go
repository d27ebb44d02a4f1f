package render

// Color is how a terminal shows a text.
type Color string

// The colours, as a terminal knows them. Plain is none.
const (
	Plain  Color = ""
	Bold   Color = "1"
	Red    Color = "31"
	Green  Color = "32"
	Yellow Color = "33"
)

// on returns a text in a colour.
func (c Color) on(text string) string {
	if c == Plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}
