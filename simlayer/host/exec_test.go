package host

func testObject(string) int { return 1 }
