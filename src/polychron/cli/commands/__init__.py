"""The commands' arguments, options and help, by what one does with them."""
