// Package client calls a mesh from Go: it carries a session's bookmarks from one call to the next, so that a caller sees
// its own writes in every region, repeats calls that are safe to repeat, turns rows into Go values, and returns errors that
// programs can tell apart. docs/client.md shows it whole.
//
// New makes a client of the data API; its Database is what most programs use. For any other generated client, pass the same Session as an interceptor:
//
//	data := client.New("http://127.0.0.1:8080")
//	users := businessv1connect.NewUserServiceClient(http.DefaultClient, "http://127.0.0.1:8081",
//		connect.WithInterceptors(data.Session()))
//
// A service that calls the mesh while it answers a call stands in its caller's session: its handlers get the interceptor
// that Propagate returns, and hand their context on.
package client
