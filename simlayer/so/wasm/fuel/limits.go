package fuel

// Bounds of a module. They are those that browsers agreed on for their engines,
// or tighter: what they bound is the work and the memory of compiling.
const (
	// MaxModule bounds a module, in bytes.
	MaxModule = 64 << 20
	// MaxFunctionBytes bounds the body of one function.
	MaxFunctionBytes = 7_654_321
	// MaxLocals bounds the parameters and locals of one function, and
	// MaxAllLocals those of all together.
	MaxLocals    = 50_000
	MaxAllLocals = 8_000_000
	// MaxNesting bounds how deep blocks of a function nest.
	MaxNesting = 50_000
	// MaxTable bounds the entries of one table, MaxTables the tables.
	MaxTable  = 1 << 20
	MaxTables = 16
	// MaxImports, MaxExports and MaxGlobals bound these.
	MaxImports = 1_000
	MaxExports = 10_000
	MaxGlobals = 100_000
	// MaxTypes and MaxFunctions bound these.
	MaxTypes     = 100_000
	MaxFunctions = 500_000
	// MaxParams bounds the parameters, and the results, of one type.
	MaxParams = 1_000
	// MaxName bounds, in bytes, the name of an import or export.
	MaxName = 1_024

	// bulkShift makes units of the bytes or entries of a bulk instruction.
	bulkShift = 6
	// growCost is what memory.grow and table.grow take.
	growCost = 1_024
	// callCost is what a call takes beside what the function called takes itself.
	callCost = 4
)
