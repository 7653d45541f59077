"""`genopt site`: the site, built by mkdocs from `mkdocs.yml`, the pages in `docs/`, the notebooks and the code.

    hook         what mkdocs calls: adds the pages that are made, and finishes all pages
    algorithms   a page for each algorithm
    blocks       a page for each block
    repository   README, the catalogue, CONTRIBUTING, notebooks and so on as pages, with their links turned to the site's
    html         formulas as MathML, tables, links

No page that is made is kept: they are files of mkdocs in memory."""
