"""One data source per module; the registry imports every module of this folder."""
