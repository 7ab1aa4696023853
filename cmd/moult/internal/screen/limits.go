package screen

// What is taken for the size of a terminal that does not say.
const (
	normalWidth  = 80
	normalHeight = 24
)

// wrapIndent is how much further to the right than a line what follows its break stands.
const wrapIndent = 2

// maxRows bounds the rows of a frame, whatever a terminal says of its height.
const maxRows = 1000
