package fleet

import "time"

// maxTime bounds how long anything takes that a node does.
const maxTime = 30 * 24 * time.Hour
