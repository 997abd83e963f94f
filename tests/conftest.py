"""Its being here puts this folder on the path, so that tests of any folder can import ``factories``."""
