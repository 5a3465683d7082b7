"""How an archive says which mask belongs to which photo: a layout a file, and how to tell them."""
