// Package docstest keeps the guides true. Its tests run the examples of README.md and docs/ against the real program and
// compare the reference tables with the code they describe. It holds nothing but tests.
//
// An example is a block of ```sh below the line <!-- test -->. What follows it in a block of ```text is the output that is
// expected, where … stands for any text within a line and a line of … alone for any lines. The examples of one file run in
// order in one shell, in an empty folder, beside a mesh as `nearside up` starts it (unless the guide has a <!-- no mesh -->);
// the ports in them are those of the guides and are moved to free ones. A failing command fails the test, unless the line
// says <!-- test fails -->. With <!-- test with NAME --> it is left out where that program is not installed. White space in lines of JSON is not compared: protobuf varies it from build to build.
package docstest
