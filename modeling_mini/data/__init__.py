"""From a source (file, folder, Hub, built-in) to rows of token ids."""
