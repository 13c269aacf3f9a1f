"""Single files for other projects: copy them beside ODISE's or FC-CLIP's code; Python 3.8, torch 1.13 and numpy."""
