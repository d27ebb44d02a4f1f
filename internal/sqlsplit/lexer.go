package sqlsplit

import "bytes"

// A token is all the statement automaton wants to know of a piece of text.
type token uint8

const (
	tokenSemicolon token = iota
	tokenOther
	tokenExplain
	tokenCreate
	tokenTemp
	tokenTrigger
	tokenEnd
)

// A state of the automaton, the one sqlite3_complete documents.
type state uint8

const (
	stateNothing    state = iota // no token seen yet
	stateBetween                 // the last statement has ended
	stateInside                  // in a statement of the common kind
	stateExplain                 // after EXPLAIN
	stateCreate                  // after CREATE, perhaps with TEMP
	stateTrigger                 // in a trigger
	stateTriggerSub              // in a trigger, behind a ';'
	stateTriggerEnd              // in a trigger, behind "; END"
)

var transitions = [...][7]state{
	//                ';'              other         explain       create        temp          trigger       end
	stateNothing:    {stateBetween, stateInside, stateExplain, stateCreate, stateInside, stateInside, stateInside},
	stateBetween:    {stateBetween, stateInside, stateExplain, stateCreate, stateInside, stateInside, stateInside},
	stateInside:     {stateBetween, stateInside, stateInside, stateInside, stateInside, stateInside, stateInside},
	stateExplain:    {stateBetween, stateExplain, stateInside, stateCreate, stateInside, stateInside, stateInside},
	stateCreate:     {stateBetween, stateInside, stateInside, stateInside, stateCreate, stateTrigger, stateInside},
	stateTrigger:    {stateTriggerSub, stateTrigger, stateTrigger, stateTrigger, stateTrigger, stateTrigger, stateTrigger},
	stateTriggerSub: {stateTriggerSub, stateTrigger, stateTrigger, stateTrigger, stateTrigger, stateTrigger, stateTriggerEnd},
	stateTriggerEnd: {stateBetween, stateTrigger, stateTrigger, stateTrigger, stateTrigger, stateTrigger, stateTrigger},
}

// keyword gives the token of a word in lower case.
func keyword(word []byte) token {
	switch string(word) {
	case "explain":
		return tokenExplain
	case "create":
		return tokenCreate
	case "temp", "temporary":
		return tokenTemp
	case "trigger":
		return tokenTrigger
	case "end":
		return tokenEnd
	}
	return tokenOther
}

// class sorts bytes by what they can begin.
type class uint8

const (
	classOther class = iota
	classWord
	classSpace
	classSemicolon
	classQuote // ' " ` [
	classDash
	classSlash
)

var classes = func() (table [256]class) {
	for b := range table {
		letter := b|0x20 >= 'a' && b|0x20 <= 'z'
		if letter || b >= '0' && b <= '9' || b == '_' || b == '$' || b >= 0x80 {
			table[b] = classWord
		}
	}
	for _, b := range " \t\n\f\r" {
		table[b] = classSpace
	}
	for _, b := range "'\"`[" {
		table[b] = classQuote
	}
	table[';'], table['-'], table['/'] = classSemicolon, classDash, classSlash
	return table
}()

// A mode says what the lexer is in the middle of, so that it can stop and go on
// at any byte.
type mode uint8

const (
	modePlain        mode = iota
	modeWord              // only where a keyword would matter
	modeQuote             // up to closer
	modeDash              // behind '-': a comment or an operator
	modeSlash             // behind '/': a comment or an operator
	modeLineComment       // behind "--"
	modeBlockComment      // behind "/*"
	modeBlockStar         // behind '*' in a block comment
)

// maxWord is one byte more than the longest keyword, so that a longer word
// cannot be taken for one.
const maxWord = len("temporary") + 1

// lexer finds where statements begin and end. It keeps no text. Its offsets
// count the bytes it was fed from the first one on, which is its pos at start.
type lexer struct {
	state  state
	mode   mode
	closer byte // of modeQuote

	word    [maxWord]byte // of modeWord, in lower case
	wordLen int

	pos   int64 // of the next byte
	begin int64 // of the statement's first token; -1 before it
	end   int64 // behind the statement's last token so far
}

func newLexer(pos int64) lexer { return lexer{pos: pos, begin: -1} }

// next forgets the statement that feed has ended.
func (l *lexer) next() { l.begin = -1 }

// keep is the offset of the first byte that may yet belong to the statement.
func (l *lexer) keep() int64 {
	switch {
	case l.begin >= 0:
		return l.begin
	case l.mode == modeDash || l.mode == modeSlash:
		return l.pos - 1
	}
	return l.pos
}

// feed takes text that follows on what it was fed before. It stops behind the
// ';' that ends a statement and returns true; empty statements do not count.
// Else it takes all of text.
func (l *lexer) feed(text []byte) bool {
	base := l.pos
	i := 0
	for i < len(text) {
		switch l.mode {
		case modePlain:
			var ended bool
			i, ended = l.plain(text, i)
			if ended {
				l.pos = base + int64(i)
				return true
			}
		case modeWord:
			for i < len(text) && classes[text[i]] == classWord {
				l.addToWord(text[i])
				i++
			}
			l.end = base + int64(i)
			if i < len(text) {
				l.endWord()
			}
		case modeQuote:
			// A doubled quote is two quoted pieces that touch.
			i = l.through(text, i, l.closer, modePlain)
			l.end = base + int64(i)
		case modeDash, modeSlash:
			i = l.second(text, i)
		case modeLineComment:
			i = l.through(text, i, '\n', modePlain)
		case modeBlockComment:
			i = l.through(text, i, '*', modeBlockStar)
		case modeBlockStar:
			switch text[i] {
			case '*':
			case '/':
				l.mode = modePlain
			default:
				l.mode = modeBlockComment
			}
			i++
		}
	}
	l.pos = base + int64(i)
	return false
}

// plain takes text from i up to a change of mode or the end of a statement.
// l.pos is still the offset of text's first byte.
func (l *lexer) plain(text []byte, i int) (int, bool) {
	for i < len(text) {
		switch kind := classes[text[i]]; kind {
		case classSpace:
			i++
		case classSemicolon:
			i++
			if l.semicolon(l.pos + int64(i)) {
				return i, true
			}
		case classDash:
			l.mode = modeDash
			return i + 1, false
		case classSlash:
			l.mode = modeSlash
			return i + 1, false
		case classQuote:
			l.beginAt(l.pos + int64(i))
			l.mode, l.closer = modeQuote, text[i]
			if text[i] == '[' {
				l.closer = ']'
			}
			l.take(tokenOther)
			i++
			l.end = l.pos + int64(i)
			return i, false
		case classWord, classOther:
			l.beginAt(l.pos + int64(i))
			if kind == classWord && l.wantsKeyword() {
				l.mode, l.wordLen = modeWord, 0
				return i, false
			}
			i = l.others(text, i)
		}
	}
	return i, false
}

// others takes text from i that is no keyword: one byte, and what follows as
// long as nothing in it can matter.
func (l *lexer) others(text []byte, i int) int {
	l.take(tokenOther)
	i++
	if !l.wantsKeyword() {
		for i < len(text) && classes[text[i]] <= classWord {
			i++
		}
	}
	l.end = l.pos + int64(i)
	return i
}

// wantsKeyword tells whether a keyword could change the state.
func (l *lexer) wantsKeyword() bool { return l.state != stateInside && l.state != stateTrigger }

func (l *lexer) beginAt(offset int64) {
	if l.begin < 0 {
		l.begin = offset
	}
}

// semicolon takes a ';' that ends at offset behind, and tells whether it ends a
// statement.
func (l *lexer) semicolon(behind int64) bool {
	l.take(tokenSemicolon)
	if l.begin < 0 {
		return false
	}
	if l.state == stateBetween {
		return true
	}
	l.end = behind // it is part of a trigger
	return false
}

// second takes the byte behind a '-' or '/' and says what that one began.
func (l *lexer) second(text []byte, i int) int {
	switch {
	case l.mode == modeDash && text[i] == '-':
		l.mode = modeLineComment
		return i + 1
	case l.mode == modeSlash && text[i] == '*':
		l.mode = modeBlockComment
		return i + 1
	}
	l.operator(l.pos + int64(i))
	return i
}

// operator takes a '-' or '/' that ends at offset behind and began no comment.
func (l *lexer) operator(behind int64) {
	l.beginAt(behind - 1)
	l.end = behind
	l.mode = modePlain
	l.take(tokenOther)
}

// through takes text from i through the first stop, where it goes on in mode
// then; without a stop it takes it all.
func (l *lexer) through(text []byte, i int, stop byte, then mode) int {
	n := bytes.IndexByte(text[i:], stop)
	if n < 0 {
		return len(text)
	}
	l.mode = then
	return i + n + 1
}

func (l *lexer) addToWord(b byte) {
	if l.wordLen < maxWord {
		if b >= 'A' && b <= 'Z' {
			b |= 0x20
		}
		l.word[l.wordLen] = b
		l.wordLen++
	}
}

func (l *lexer) endWord() {
	l.mode = modePlain
	l.take(keyword(l.word[:l.wordLen]))
}

func (l *lexer) take(t token) { l.state = transitions[l.state][t] }

// finish tells the lexer that no text follows. It returns whether the text ends
// within a quotation or a comment.
func (l *lexer) finish() (open bool) {
	switch l.mode {
	case modeWord:
		l.endWord()
	case modeDash, modeSlash:
		l.operator(l.pos)
	case modeQuote, modeLineComment, modeBlockComment, modeBlockStar:
		return true
	case modePlain:
	}
	return false
}
