// Package jq runs jq programs over JSON texts, most of them without parsing these.
//
// [Compile] brings a program into a bounded form where it has one: one that yields at
// most one value, in a time and with a memory that are linear in what it looks at. Such
// a program works on the text itself: what it copies is copied as it stands, numbers
// digit by digit. Whatever has no bounded form, and whatever a bounded form meets at run
// time that is not for it, is done by gojq, which is slower and says the same. That it
// says the same is what this package promises; its tests take gojq for their oracle.
//
// A [Document] is a text that was read, a [Value] what programs see of it, and a [Scope]
// an object of the caller's whose members are made only when asked for. [Program.Eval]
// and [Program.JSON] run within a [Run], which bounds the time of several programs
// together, and its memory may be used again by the next: see [Pool].
//
// # The bounded form
//
//   - paths (.a.b, .["a b"], .a[0], with or without ?), constants, {…} with names that
//     stand there, […], path[] in an array, and strings with paths in \(…)
//   - |  //  ==  !=  <  <=  >  >=  and  or  not  +, and - with an array of constants
//   - if, select(f), map(f), empty, del(.a, .b), .a = f, .a |= f, has("a"), and
//     with_entries(.key |= ({old: "new"}[.] // .)), which renames fields and keeps the rest
//   - startswith, endswith, ltrimstr, rtrimstr, split and join with a constant
//   - type, length, keys, sort, reverse, tostring, tonumber, tojson, floor, ascii_downcase,
//     ascii_upcase, trim, ltrim, rtrim, utf8bytelength, to_entries, objects, arrays,
//     strings, numbers, booleans, nulls, values, scalars, iterables, @base64, @base64d, @uri
//
// There are no variables, no functions of the program's own and no loops but map. A text
// of more than 256 levels is left to gojq.
package jq
