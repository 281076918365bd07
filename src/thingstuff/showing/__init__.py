"""A data set to look at: contact sheets, and a page to leaf through its pictures with their maps."""
