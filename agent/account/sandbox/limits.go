package sandbox

// maxRules bounds the rules of one sandbox: a folder that holds what is kept from programs
// is allowed entry by entry.
const maxRules = 16 << 10
