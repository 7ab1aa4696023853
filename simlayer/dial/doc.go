// Package dial lets a program that moult runs call its peers without a proxy and
// without help of the kernel: it asks the agent beside it where a peer answers the
// version that the program is, and dials that. Calls to anything that is no peer's
// service are dialled as they are.
//
// The agent tells its software where to ask by the environment variable
// MOULT_SOCKET. Without it, as where the program runs without moult, everything is
// dialled as it is. For HTTP:
//
//	client := &http.Client{Transport: &http.Transport{DialContext: dial.New().DialContext}}
//
// Answers are kept for a moment, and asked for anew when dialling fails. While the
// agent is away the last answers serve on. An address of which nothing is known
// then waits for the agent, and fails if it does not come: a call to a peer that
// did not say its version might be taken for one of another version.
//
// The package depends on nothing but the standard library.
package dial
